"""The vocabulary refuses what cannot be, and adds up."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.core import (
    Chat,
    Completion,
    FinishReason,
    Generate,
    Message,
    Prompt,
    RequestKey,
    SamplingParams,
    Score,
    TokenIds,
    Usage,
)
from hf_dynasor.engine import Ability, Engine, check_abilities
from hf_dynasor.errors import ConfigurationError, UnsupportedError, name_unknown
from hf_dynasor.program import derive_seed
from hf_dynasor.testing import ScriptedEngine

KEY = RequestKey(program_id="p", request_id="r")
counts = st.integers(0, 1000)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"stop": ("",)},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_sampling_outside_its_range_is_refused(bad):
    with pytest.raises(ConfigurationError):
        SamplingParams(**bad)


def test_messages_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Message(role="user", content="hi").content = "ho"


def test_a_longer_prompt_begins_with_the_shorter_one():
    short = Prompt.chat("2+2?", system="Be brief.")
    longer = short + TokenIds(ids=(1, 2)) + " so"
    assert longer.segments[: len(short.segments)] == short.segments
    assert short.segments == Prompt.chat("2+2?", system="Be brief.").segments


def test_a_chat_can_only_open_a_prompt():
    chat = Chat(messages=(Message(role="user", content="hi"),))
    with pytest.raises(ConfigurationError, match="first"):
        Prompt(("text", chat))


def test_empty_prompts_and_conversations_are_refused():
    with pytest.raises(ConfigurationError):
        Prompt(())
    with pytest.raises(ConfigurationError):
        Chat(messages=())


@given(*[st.tuples(counts, counts, counts, counts, counts, counts)] * 2)
def test_usage_adds_up_field_by_field(first, second):
    def make(values):
        prompt, cached, *rest = values
        return Usage(
            prompt=prompt + cached,
            cached=cached,
            **dict(zip(("sampled", "forced", "probe", "reward"), rest, strict=True)),
        )

    total = make(first) + make(second)
    assert total.net_tokens == make(first).net_tokens + make(second).net_tokens
    assert total.net_tokens == total.sampled + total.forced + total.probe + total.reward
    assert total == make(second) + make(first)


def test_usage_refuses_negative_counts_and_more_cached_than_prompt():
    with pytest.raises(ConfigurationError):
        Usage(sampled=-1)
    with pytest.raises(ConfigurationError):
        Usage(prompt=3, cached=4)


def test_only_failures_carry_an_error():
    with pytest.raises(ConfigurationError):
        Completion(key=KEY, finish_reason=FinishReason.FAILED)
    with pytest.raises(ConfigurationError):
        Completion(key=KEY, finish_reason=FinishReason.EOS, error="oops")


def test_logprobs_come_one_a_token():
    with pytest.raises(ConfigurationError, match="one each"):
        Completion(key=KEY, finish_reason=FinishReason.EOS, token_ids=(1, 2), logprobs=(-0.1,))


@pytest.mark.parametrize(
    ("request_", "missing"),
    [
        (Generate(key=KEY, prompt=Prompt.plain("a"), sampling=SamplingParams(seed=1)), Ability.SEEDS),
        (
            Generate(key=KEY, prompt=Prompt.plain("a"), sampling=SamplingParams(logprobs=True)),
            Ability.LOGPROBS,
        ),
        (Generate(key=KEY, prompt=Prompt.plain("a"), stream=True), Ability.STREAM),
        (Score(key=KEY, prompt=Prompt.plain("a")), Ability.SCORE),
    ],
)
def test_an_ability_that_is_missing_is_refused_by_name(request_, missing):
    with pytest.raises(UnsupportedError, match=missing.value):
        check_abilities("tiny", set(Ability) - {missing}, [request_])
    check_abilities("tiny", set(Ability), [request_])


def test_a_seed_on_a_greedy_request_needs_no_seeds():
    sampling = SamplingParams(temperature=0, seed=1)
    request = Generate(key=KEY, prompt=Prompt.plain("a"), sampling=sampling)
    assert check_abilities("tiny", (), [request]) is None


def test_the_scripted_engine_is_an_engine():
    assert isinstance(ScriptedEngine([]), Engine)


@given(st.integers(0, 2**63 - 1), st.integers(0, 50), st.integers(0, 50))
def test_derived_seeds_are_stable_valid_and_apart(seed, first, second):
    assert derive_seed(seed, "sample", first) == derive_seed(seed, "sample", first)
    SamplingParams(seed=derive_seed(seed, "sample", first))
    if first != second:  # two of 2**63 seeds collide with a probability of about 1e-19
        assert derive_seed(seed, "sample", first) != derive_seed(seed, "sample", second)


def test_no_seed_stays_no_seed():
    assert derive_seed(None, "sample", 0) is None


def test_an_unknown_name_lists_the_known_ones():
    assert str(name_unknown("policy", "x", ["b", "a"])) == "Unknown policy 'x'. Known: a, b."
