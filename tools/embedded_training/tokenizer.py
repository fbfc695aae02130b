"""Trains the byte-level tokenizer of the embedded reasoner and gives it its chat template.

Every digit is a token of its own, so is a blank line; special tokens mark turns; any Unicode text survives
encoding and decoding.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_dynasor.embedded.traces import THINK_END, THINK_START

PAD, BOS, EOS, USER, ASSISTANT = "<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"
MAX_LENGTH = 2048
_PIECES = r"\n\n|\n|\d| ?\\boxed\{| ?\p{L}+| ?[^\s\p{L}\d]|\s"

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>' + message['content'] + '<|end|>' }}
    {%- elif message['role'] == 'assistant' %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content and not loop.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|assistant|>' + content + '<|end|>' }}
    {%- elif message['role'] != 'system' %}
        {{- raise_exception("Got the role '" + message['role'] + "' but expected system, user or assistant") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking %}
        {{- '<think>\\n' }}
    {%- endif %}
{%- endif %}
"""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of at most `vocab_size` entries, all special tokens included."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, USER, ASSISTANT, THINK_START, THINK_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _wrap(_make_thinking_visible(backend))


def _make_thinking_visible(backend: Tokenizer) -> Tokenizer:
    """Keeps `<think>` and `</think>` single tokens but not special: decoding shows them."""
    backend.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in (THINK_START, THINK_END)]
    )
    return backend


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
