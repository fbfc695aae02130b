"""`/tokenize` and `/detokenize`, as vLLM's clients know them."""

from __future__ import annotations

from typing import Any

from hf_dynasor.serving.http import params, wire
from hf_dynasor.serving.http.errors import bad_request
from hf_dynasor.serving.http.model_info import ServedModel


def tokenize(body: wire.TokenizeRequest, model: ServedModel) -> dict[str, Any]:
    """The ids of a text or a conversation.

    Raises:
        ApiError: 400, neither or both of them, or a conversation that the template refuses.
    """
    model.check_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Expected either prompt or messages.", param="prompt")
    if body.messages is not None:
        if not body.messages:
            raise bad_request("Got no messages but expected at least one.", param="messages")
        ids = list(model.encode(params.build_chat_prompt(body.messages, body.chat_template_kwargs)))
    else:
        ids = model.tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    texts = model.tokenizer.convert_ids_to_tokens(ids) if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.max_length, "tokens": ids, "token_strs": texts}


def describe_tokenizer(model: ServedModel) -> dict[str, Any]:
    """What clients that count tokens themselves need to know."""
    tokenizer = model.tokenizer
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "chat_template": tokenizer.chat_template,
        "vocab_size": model.vocabulary_size,
    }


def detokenize(body: wire.DetokenizeRequest, model: ServedModel) -> dict[str, Any]:
    """The text of ids.

    Raises:
        ApiError: 400, an id outside the vocabulary.
    """
    model.check_name(body.model)
    size = int(model.loaded.config.vocab_size)
    for token_id in body.tokens:
        if not 0 <= token_id < size:
            raise bad_request(
                f"Got token id {token_id} but the vocabulary has ids 0 to {size - 1}.", param="tokens"
            )
    return {"prompt": str(model.tokenizer.decode(body.tokens, skip_special_tokens=False))}
