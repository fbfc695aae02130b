"""Rewards of steps, and the pieces that they rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex.likelihood import RESULT_DIGITS
from hf_dynasor.core import Completion, FinishReason, RequestKey
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.programs import REWARDS, LikelihoodReward, ModelReward, StepReward
from hf_dynasor.programs.pieces import Piece, read_piece
from hf_dynasor.programs.step_rewards import choose_reward

KEY = RequestKey(program_id="p", request_id="r")


def spell(pieces):
    """A piece of text whose tokens and probabilities are given."""
    texts = [text for text, _ in pieces]
    return Piece(
        text="".join(texts),
        token_ids=tuple(range(len(texts))),
        logprobs=tuple(math.log(probability) for _, probability in pieces),
        offsets=tuple(sum(map(len, texts[:index])) for index in range(len(texts))),
    )


STEP = spell([("2+2", 0.25), ("=", 1.0), ("4", 0.5), ("\n\n", 0.8)])


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (LikelihoodReward(), 0.25),
        (LikelihoodReward(tokens="product"), 0.1),
        (LikelihoodReward(tokens="geometric_mean"), 0.1**0.25),
        (LikelihoodReward(pattern=RESULT_DIGITS), 0.5),
        (LikelihoodReward(pattern="nothing like it"), 1.0),
    ],
)
def test_the_likelihood_of_a_step(reward, expected):
    assert reward.read_piece(STEP) == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "expected"), [("min", 0.2), ("product", 0.08), ("last", 0.4)])
def test_the_rewards_of_a_path(steps, expected):
    for reward in (LikelihoodReward(steps=steps), ModelReward(steps=steps)):
        assert reward.join(reward.join(None, 0.2), 0.4) == pytest.approx(expected)


def test_what_is_not_known_changes_nothing():
    assert LikelihoodReward().join(0.3, None) == 0.3
    assert LikelihoodReward().join(None, None) is None
    assert LikelihoodReward().read_piece(Piece(text="")) is None


def test_a_likelihood_without_logprobs_is_an_error_not_a_reward():
    with pytest.raises(ProgramError, match="the engine returned none"):
        LikelihoodReward().read_piece(Piece(text="a", token_ids=(1,)))


def test_a_model_reward_is_the_score():
    done = Completion(key=KEY, finish_reason=FinishReason.EOS, score=0.7)
    assert ModelReward().read_score(done) == 0.7
    assert ModelReward().read_piece(STEP) is None


@pytest.mark.parametrize("make", [
    lambda: LikelihoodReward(tokens="sum"), lambda: LikelihoodReward(steps="sum"), lambda: LikelihoodReward(pattern="("),
    lambda: ModelReward(steps="sum"), lambda: choose_reward("oracle"),
])  # fmt: skip
def test_rewards_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigurationError):
        make()


def test_rewards_by_name():
    assert all(isinstance(reward, StepReward) for reward in REWARDS.values())
    assert choose_reward("likelihood") == LikelihoodReward()
    mine = LikelihoodReward(steps="product")
    assert choose_reward(mine) is mine


texts = st.lists(st.sampled_from(["a", ";", ";;", "b;c", "1", "d;"]), min_size=1, max_size=12)


@given(texts)
def test_cutting_loses_nothing(parts):
    whole = spell([(text, 0.5) for text in parts])
    steps = whole.cut(";")
    assert "".join(step.text for step in steps) == whole.text
    assert sum((step.token_ids for step in steps), ()) == whole.token_ids
    assert sum((step.logprobs for step in steps), ()) == whole.logprobs
    for step in steps:
        assert step.offsets[0] == 0
        assert len(step.offsets) == len(step.token_ids)
    for step in steps[:-1]:
        assert ";" in step.text
        assert (
            step.text.find(";") + 1 > step.offsets[-1]
        )  # the delimiter is completed by the step's last token


def test_a_piece_without_places_is_not_cut():
    piece = Piece(text="a;b", token_ids=(1, 2))
    assert piece.cut(";") == (piece,)


def test_a_step_that_was_stopped_ends_with_its_delimiter():
    stopped = Completion(key=KEY, text="a", token_ids=(1, 2), finish_reason=FinishReason.STOP)
    assert read_piece(stopped, "\n\n").text == "a\n\n"
    ended = Completion(key=KEY, text="a", token_ids=(1, 2), finish_reason=FinishReason.EOS)
    assert read_piece(ended, "\n\n").text == "a"
