"""Rows compute the same whatever joins or leaves their batch, and models without such a batch run all the same."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, LoadedModel
from hf_dynasor.serving.loading import prepare
from hf_dynasor.serving.padded_batch import PaddedBatch, find_cache_kind
from tests.serving.kit import Collector, ask, complete, generate_plainly

PROMPTS = [list(range(3, 8)), list(range(40, 100)), [9], list(range(100, 130))]


def make_mistral(vocab_size: int) -> MistralForCausalLM:
    """Every layer sees the last 12 tokens only."""
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=12, max_position_embeddings=512, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def make_mamba(vocab_size: int) -> MambaForCausalLM:
    """No keys and values at all: a recurrent state."""
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip


def make_gpt2(vocab_size: int) -> GPT2LMHeadModel:
    """Learned positions: padding on the left must not shift them."""
    config = GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=2, n_positions=512, initializer_range=0.3,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    return GPT2LMHeadModel(config)


def load(make: object, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    torch.manual_seed(1)
    model = make(len(tokenizer))  # type: ignore[operator]
    model.generation_config.eos_token_id = None
    return prepare(LoadedModel(model=model, tokenizer=tokenizer, name="other"))


def test_rows_that_join_and_leave_change_nothing_for_the_others(loaded: LoadedModel) -> None:
    torch.manual_seed(0)

    def alone(prompt: list[int], tokens: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return loaded.model(torch.tensor([prompt + tokens])).logits[0, -1]

    batch, part = PaddedBatch(loaded.model, 0), PaddedBatch(loaded.model, 0)
    torch.testing.assert_close(
        batch.prefill([PROMPTS[0], PROMPTS[1]], [0, 1, 0])[2], alone(PROMPTS[0], []), atol=1e-4, rtol=1e-4
    )
    batch.step([5, 6, 7])
    part.prefill([PROMPTS[2], PROMPTS[3]], [0, 1])
    batch.join(part)
    logits = batch.step([1, 2, 3, 4, 5])
    histories = [[5, 1], [6, 2], [7, 3], [4], [5]]
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[3]]
    for row, (prompt, history) in enumerate(zip(prompts, histories, strict=True)):
        torch.testing.assert_close(logits[row], alone(prompt, history), atol=1e-4, rtol=1e-4)
    batch.keep([2, 3])
    logits = batch.step([8, 9])
    torch.testing.assert_close(logits[0], alone(PROMPTS[0], [7, 3, 8]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1], alone(PROMPTS[2], [4, 9]), atol=1e-4, rtol=1e-4)
    assert len(batch) == 2
    batch.keep([])
    assert len(batch) == 0


@pytest.mark.parametrize(
    ("make", "kind"), [(make_mistral, "fixed"), (make_mamba, "opaque"), (make_gpt2, "joinable")]
)
def test_other_architectures_equal_plain_generate(
    make: object, kind: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """In two waves over three places: the second has to wait, join or start afresh."""
    loaded = load(make, tokenizer)
    assert find_cache_kind(loaded.model) == kind
    with GenerateEngine(loaded, max_batch_size=3) as engine:
        requests = [ask(ids, str(i), max_new_tokens=6 + 5 * i) for i, ids in enumerate(PROMPTS * 2)]
        for request, done in zip(requests, complete(engine, *requests), strict=True):
            ids = list(request.prompt.segments[0].ids)  # type: ignore[union-attr]
            assert done.token_ids == generate_plainly(loaded, ids, request.sampling.max_new_tokens)


# Everything that a generation config can say about tokens, and that would show in 12 of them.
ACTIVE_SETTINGS = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 3.0,
    "encoder_no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(3, 200)),
    "begin_suppress_tokens": list(range(3, 250)),
    "bad_words_ids": [[token_id] for token_id in range(150, 290)],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 6,
    "min_new_tokens": 10,
    "sequence_bias": [[[token_id], 50.0] for token_id in range(20, 30)],
    "exponential_decay_length_penalty": (1, 9.0),
    "watermarking_config": {"bias": 20.0},
    "guidance_scale": 3.0,
    "stop_strings": ["a", "e"],
    "max_time": 1e-6,
    "max_length": 3,
    "num_beams": 3,
    "penalty_alpha": 0.6,
    "top_h": 0.5,
    "min_p": 0.5,
    "top_k": 4,
    "do_sample": True,
    "cache_implementation": "static",
    "return_dict_in_generate": True,
    "eos_token_id": list(range(3, 100)),
}


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2},
        {"num_return_sequences": 2, "do_sample": True},
        *({name: value} for name, value in ACTIVE_SETTINGS.items()),
    ],
    ids="+".join,
)
def test_what_a_generation_config_says_is_left_out_of_recurrent_models(
    settings: dict[str, object], tokenizer: PreTrainedTokenizerFast
) -> None:
    """They run through `model.generate`, which fills in whatever the model's own generation config says: a warning
    said "left out", and the penalties were applied."""
    loaded = load(make_mamba, tokenizer)
    want = generate_plainly(loaded, PROMPTS[0], 12)
    for name, value in settings.items():
        setattr(loaded.model.generation_config, name, value)
    with GenerateEngine(loaded) as engine:
        done = complete(engine, *(ask(PROMPTS[0], str(index), max_new_tokens=12) for index in range(2)))
    assert [item.token_ids for item in done] == [want, want]


def test_recurrent_models_can_be_cancelled_and_closed(tokenizer: PreTrainedTokenizerFast) -> None:
    with GenerateEngine(load(make_mamba, tokenizer)) as engine:
        collector = Collector()
        requests = [ask(ids, str(i), max_new_tokens=10**6, stream=True) for i, ids in enumerate(PROMPTS)]
        engine.submit(requests, collector)
        while len(collector.deltas) < 4:
            collector.take()
        engine.cancel([requests[0].key])
        while not collector.completions:
            collector.take()
        assert collector.completions[requests[0].key].finish_reason is FinishReason.CANCELLED
        engine.close()
        assert len(collector.wait(4)) == 4


@pytest.mark.parametrize("make", [make_mistral, make_mamba])
def test_continuous_batching_refuses_what_it_cannot_run(
    make: object, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UnsupportedError, match="GenerateEngine"):
        ContinuousBatchingEngine(load(make, tokenizer))


def test_sizes_below_one_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ConfigurationError, match="max_batch_size = 0"):
        GenerateEngine(loaded, max_batch_size=0)


@pytest.mark.parametrize(
    "options",
    [{"max_batch_size": 2}, {"max_prefill_tokens": 20}, {"max_batch_size": 1}, {"max_cache_tokens": 90}],
)
def test_small_batches_give_the_same_tokens(options: dict[str, int], loaded: LoadedModel) -> None:
    with GenerateEngine(loaded, **options) as engine:
        requests = [ask(ids, str(i), max_new_tokens=4 + i) for i, ids in enumerate(PROMPTS * 2)]
        for request, done in zip(requests, complete(engine, *requests), strict=True):
            ids = list(request.prompt.segments[0].ids)  # type: ignore[union-attr]
            assert done.token_ids == generate_plainly(loaded, ids, request.sampling.max_new_tokens)
