"""Rebase: the width goes where the reward is, to the last unit."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import normalised_entropy
from hf_dynasor.core import FinishReason, SamplingParams
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs import Rebase, allocate_width
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.programs.kit import PROMPT, count_steps

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=12)
widths = st.integers(0, 64)
temperatures = st.floats(0.001, 10)


@given(rewards, widths, temperatures)
def test_the_shares_add_up_and_each_is_within_one_of_its_quota(rewards, width, temperature):
    """A peer rounds every share up from the front, which leaves nothing for the last ones."""
    shares = allocate_width(rewards, width=width, temperature=temperature)
    weights = [math.exp((reward - max(rewards)) / temperature) for reward in rewards]
    assert sum(shares) == width
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - width * weight / math.fsum(weights)) < 1 + 1e-9


@given(rewards, widths, temperatures)
def test_a_higher_reward_never_gets_less(rewards, width, temperature):
    shares = allocate_width(rewards, width=width, temperature=temperature)
    ranked = sorted(zip(rewards, shares, strict=True))
    for (low, less), (high, more) in itertools.pairwise(ranked):
        assert less <= more or low == high


@given(st.integers(1, 20), st.integers(1, 64))
def test_equal_rewards_share_evenly(num_rewards, width):
    shares = allocate_width([0.5] * num_rewards, width=width, temperature=0.2)
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ConfigurationError, match="above 0"):
        Rebase(PROMPT, reward_temperature=temperature)


def test_a_bad_beginning_gets_no_more_width():
    """Four first steps, one of them good: with a low temperature its children take the whole next wave."""

    def script(request):
        if count_steps(request) == 0:
            is_good = request.key.request_id == "step-2"
            return Reply(
                text="a", num_tokens=1, probability=0.9 if is_good else 0.1, finish_reason=FinishReason.STOP
            )
        return Reply(text="\\boxed{4}", num_tokens=1, probability=0.8)

    engine = ScriptedEngine(script)
    answer = run(Rebase(PROMPT, budget=4, reward_temperature=0.05), engine, Even())
    assert [path.parent for path in answer.paths if path.is_terminal] == ["step-2"] * 4
    assert answer.votes == (("4", pytest.approx(4 * 0.8)),)
    assert answer.certaindex.reward == pytest.approx(0.8)


def test_a_finished_path_keeps_its_place_and_the_rest_shares_what_is_left():
    """One of four first steps is a whole answer: the others go on with a width of three."""

    def script(request):
        if request.key.request_id == "step-0":
            return Reply(text="\\boxed{5}", probability=0.5)
        if count_steps(request) == 0:
            return Reply(text="a", num_tokens=1, probability=0.5, finish_reason=FinishReason.STOP)
        return Reply(text="\\boxed{4}", probability=0.5)

    engine = ScriptedEngine(script)
    answer = run(Rebase(PROMPT, budget=4), engine, Even())
    assert len(engine.submitted) == 4 + 3
    assert answer.votes == (("4", 1.5), ("5", 0.5))
    assert answer.certaindex.entropy == pytest.approx(normalised_entropy([3, 1]))


def test_the_vote_weighs_rewards():
    replies = {"step-0": ("5", 0.2), "step-1": ("5", 0.2), "step-2": ("4", 0.9)}

    def script(request):
        text, probability = replies[request.key.request_id]
        return Reply(text=f"\\boxed{{{text}}}", probability=probability)

    answer = run(Rebase(PROMPT, budget=3), ScriptedEngine(script), Even())
    assert answer.text == "4"


def test_each_grant_grows_a_tree_of_its_own():
    def script(request):
        if count_steps(request) == 0:
            return Reply(text="a", num_tokens=1, finish_reason=FinishReason.STOP)
        return Reply(text=f"\\boxed{{{request.key.request_id}}}")

    answer = run(Rebase(PROMPT, budget=5), ScriptedEngine(script), StaticThreshold(detect_at=2))
    assert [record.units for record in answer.trace] == [2, 3]
    assert [path.parent for path in answer.paths].count(None) == 5
    assert answer.certaindex.num_paths == 5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 16), st.integers(0, 99))
def test_no_wave_is_wider_than_the_width(width, seed):
    waves = []

    class Noting(ScriptedEngine):
        def submit(self, requests, sink):
            waves.append(len(requests))
            super().submit(requests, sink)

    def script(request):
        is_end = (
            len(request.key.request_id) * 5 + count_steps(request) + seed + ord(request.key.request_id[5])
        ) % 3 == 0
        reason = FinishReason.EOS if is_end else FinishReason.STOP
        return Reply(text="x", num_tokens=1, finish_reason=reason)

    sampling = SamplingParams(max_new_tokens=20, seed=seed)
    run(Rebase(PROMPT, budget=width, sampling=sampling), Noting(script), Even())
    assert waves[0] == width
    assert waves == sorted(waves, reverse=True)


def test_table_1_is_a_recipe():
    program, policy = Recipe(program="rebase", preset="rebase/gsm8k", budget=64).build("2+2?")
    assert (program.knob.unit, policy.detect_at, policy.thresholds.to_dict()) == (
        "width",
        16,
        {"entropy": 0.85, "reward": 0.99},
    )
    assert Recipe(program="rebase").build_policy().detect_at == 16
    assert Recipe(program="rebase").build("2+2?")[0].knob.maximum == 16
    with pytest.raises(
        ConfigurationError,
        match=r"'num_children', which rebase does not read. It reads: .*reward_temperature",
    ):
        Recipe(program="rebase", program_options={"num_children": 2})
