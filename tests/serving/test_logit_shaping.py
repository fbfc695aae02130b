"""Penalties, biases, endings: each request its own, equal to transformers' processors where it has them."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
)

from hf_dynasor.core import FinishReason, Generate, Prompt, RequestKey, SamplingParams
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving import GenerateEngine
from hf_dynasor.serving.continuous_engine import ContinuousBatchingEngine
from hf_dynasor.serving.logit_shaping import shape_logits
from hf_dynasor.serving.sampling import RowSampler, draw_tokens

LOGITS = torch.tensor([[2.0, 1.0, 0.5, -0.5, -1.0, -1.5]])


def shape(params, prompt=(), drawn=(), eos=()):
    sampler = RowSampler(params, prompt, eos)
    for token in drawn:
        sampler.shaper.note(token)
    return shape_logits(LOGITS, [sampler.shaper])[0]


def test_the_repetition_penalty_is_that_of_transformers():
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 3, 4]]), LOGITS.clone())[0]
    assert torch.equal(shape(SamplingParams(repetition_penalty=1.5), prompt=(0, 3), drawn=(4,)), expected)


def test_presence_counts_once_and_frequency_each_time_and_neither_the_prompt():
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    difference = LOGITS[0] - shape(params, prompt=(5,), drawn=(1, 1, 2))
    assert difference.tolist() == pytest.approx([0, 1.0, 0.75, 0, 0, 0])


def test_a_bias_is_added_and_ids_outside_the_vocabulary_do_no_harm():
    shaped = shape(SamplingParams(logit_bias=((0, -100.0), (3, 2.0), (99, 5.0))))
    assert (shaped - LOGITS[0]).tolist() == pytest.approx([-100, 0, 0, 2, 0, 0])


def test_endings_cannot_be_drawn_before_the_minimum():
    params = SamplingParams(min_new_tokens=2, stop_token_ids=(1,))
    assert [math.isinf(value) for value in shape(params, eos=(0,))] == [True, True] + [False] * 4
    assert not shape(params, eos=(0,), drawn=(3, 3)).isinf().any()


def test_ignoring_eos_leaves_it_drawable():
    params = SamplingParams(min_new_tokens=2, ignore_eos=True, stop_token_ids=(1,))
    assert [math.isinf(value) for value in shape(params, eos=(0,))] == [False, True] + [False] * 4


def test_min_p_keeps_what_transformers_keeps():
    kept = torch.isfinite(MinPLogitsWarper(0.2)(torch.empty(0), LOGITS.clone()))[0]
    samplers = [RowSampler(SamplingParams(min_p=0.2, seed=seed)) for seed in range(3000)]
    drawn = set(draw_tokens(LOGITS.repeat(3000, 1), samplers).tokens)
    assert drawn == set(torch.arange(6)[kept].tolist())


def test_a_row_that_is_shaped_does_not_touch_its_neighbours():
    params = [SamplingParams(temperature=0), SamplingParams(temperature=0, logit_bias=((0, -100.0),))]
    logits = LOGITS.repeat(2, 1)
    assert draw_tokens(logits, [RowSampler(item) for item in params]).tokens == [0, 1]
    assert torch.equal(logits, LOGITS.repeat(2, 1))


def test_log_probabilities_are_of_the_model_whatever_is_shaped_and_the_likeliest_are_listed():
    params = SamplingParams(temperature=0, logit_bias=((0, -100.0),), logprobs=True, num_top_logprobs=2)
    drawn = draw_tokens(LOGITS, [RowSampler(params)])
    expected = torch.log_softmax(LOGITS[0], 0)
    assert drawn.tokens == [1]
    assert drawn.logprobs == pytest.approx([float(expected[1])])
    ((first, second),) = drawn.top_logprobs
    assert [first[0], second[0]] == [0, 1]
    assert [first[1], second[1]] == pytest.approx([float(expected[0]), float(expected[1])])


@pytest.mark.parametrize(
    "settings",
    [
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -3},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, 200.0),)},
        {"stop_token_ids": (-1,)},
        {"min_new_tokens": 9, "max_new_tokens": 8},
        {"num_top_logprobs": 21, "logprobs": True},
        {"num_top_logprobs": 2},
    ],
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError, match="Got"):
        SamplingParams(**settings)


@pytest.fixture(params=[GenerateEngine, ContinuousBatchingEngine], ids=["generate", "continuous"])
def engine(request, embedded):
    with request.param(embedded) as engine:
        yield engine


def complete(engine, **settings):
    import queue

    events = queue.SimpleQueue()
    key = RequestKey(program_id="p", request_id="r")
    sampling = SamplingParams(temperature=0, **settings)
    engine.submit([Generate(key=key, prompt=Prompt.chat("What is 2+3?"), sampling=sampling)], events.put)
    return events.get(timeout=60)


def test_engines_end_at_stop_tokens_go_past_eos_and_keep_the_minimum(engine):
    plain = complete(engine, max_new_tokens=64)
    assert plain.finish_reason is FinishReason.EOS
    third = plain.token_ids[2]
    stopped = complete(engine, max_new_tokens=64, stop_token_ids=(third,))
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(third) + 1]
    longer = complete(engine, max_new_tokens=len(plain.token_ids) + 5, ignore_eos=True)
    assert longer.finish_reason is FinishReason.LENGTH
    assert longer.token_ids[: len(plain.token_ids)] == plain.token_ids
    minimum = len(plain.token_ids) + 3
    forced = complete(engine, max_new_tokens=64, min_new_tokens=minimum)
    assert len(forced.token_ids) >= minimum
    assert plain.token_ids[-1] not in forced.token_ids[: minimum - 1]


def test_engines_report_the_likeliest_tokens(engine):
    completion = complete(engine, max_new_tokens=8, logprobs=True, num_top_logprobs=3)
    assert len(completion.top_logprobs) == len(completion.token_ids)
    for token, logprob, top in zip(
        completion.token_ids, completion.logprobs, completion.top_logprobs, strict=True
    ):
        assert len(top) == 3
        assert top[0] == (token, pytest.approx(logprob))
