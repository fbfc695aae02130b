"""Votes: what they weigh, when they are decided, and that giving up samples changes no winner."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.answers import group_answers
from hf_dynasor.core import Prompt, SamplingParams, Score
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import StopReason
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.programs.voting import count_votes, is_decided
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import Reply, ScriptedEngine

PROMPT = Prompt.chat("What is 2+2?")
ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=7)


def box(answer):
    return "?" if answer is None else f"So it is \\boxed{{{answer}}}."


def find_winner(answers, weights=None):
    tallies = count_votes(group_answers(answers).groups, weights=weights)
    return tallies[0].group.representative if tallies else None


@settings(max_examples=60, deadline=None)
@given(answers=ANSWERS, num_out=st.integers(1, 3), data=st.data())
def test_a_decided_vote_is_the_vote_of_every_way_in_which_the_rest_may_fall(answers, num_out, data):
    """Brute force over all answers that the samples still out could give, a fresh one among them; and the converse."""
    size = len(answers) + num_out
    out = sorted(data.draw(st.permutations(range(size)))[:num_out])
    seen = [index for index in range(size) if index not in out]
    groups = group_answers(answers).groups
    winners = set()
    for rest in itertools.product(["1", "2", "3", "9", None], repeat=num_out):
        whole = [None] * size
        for index, answer in [*zip(seen, answers, strict=True), *zip(out, rest, strict=True)]:
            whole[index] = answer
        winners.add(find_winner(whole))
    assert is_decided(count_votes(groups, samples=seen), out) == (len(winners) == 1)


@settings(max_examples=60, deadline=None)
@given(answers=ANSWERS, num_out=st.integers(1, 2), data=st.data())
def test_a_decided_weighted_vote_survives_every_weight_of_the_rest(answers, num_out, data):
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=len(answers), max_size=len(answers))
    )
    size = len(answers) + num_out
    tallies = count_votes(group_answers(answers).groups, weights=dict(enumerate(weights)))
    if not is_decided(tallies, range(len(answers), size), is_weighted=True):
        return
    for rest in itertools.product(["1", "2", "3", "9"], [0.0, 1.0], repeat=num_out):
        whole = [*answers, *rest[0::2]]
        everything = [*weights, *rest[1::2]]
        assert find_winner(whole, dict(enumerate(everything))) == tallies[0].group.representative


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["1", "2", "3", None]), min_size=2, max_size=12),
    seed=st.integers(0, 2**32),
    policy=st.sampled_from([Even(), StaticThreshold()]),
)
def test_giving_up_decided_samples_changes_no_winner_whatever_the_order_of_arrival(answers, seed, policy):
    def script(request):
        return Reply(text=box(answers[int(request.key.request_id.removeprefix("sample-"))]))

    def vote(**options):
        engine = ScriptedEngine(script, rng=random.Random(seed))
        return run(SelfConsistency(PROMPT, budget=len(answers), **options), engine, policy)

    whole = run(SelfConsistency(PROMPT, budget=len(answers)), ScriptedEngine(script), Even())
    plain, early = vote(), vote(stop_decided=True)
    if plain.stop_reason is StopReason.BUDGET:
        assert early.text == whole.text
    assert early.usage.net_tokens <= whole.usage.net_tokens


def test_samples_in_flight_are_cancelled_once_the_vote_is_decided():
    def script(request):
        index = int(request.key.request_id.removeprefix("sample-"))
        return Reply(text=box(4)) if index < 3 else Reply(is_held=True, num_tokens=7)

    engine = ScriptedEngine(script)
    answer = run(SelfConsistency(PROMPT, budget=5, stop_decided=True), engine, Even())
    assert (answer.text, answer.stop_reason) == ("4", StopReason.CERTAIN)
    assert len(engine.cancelled) == 2
    assert answer.units_spent == 3
    assert answer.explanation == "no vote of the 2 samples left of 5 can change the answer"
    assert answer.usage.sampled == 3 * 4 + 2 * 7  # what was cancelled had been generated


def test_level_votes_fall_to_the_earliest_sample_so_a_level_end_is_decided_only_for_it():
    early = count_votes(group_answers(["4", "5"]).groups, samples=[0, 1])
    assert is_decided(early, []) is True
    assert is_decided(early, [2]) is False
    leader = count_votes(group_answers(["4", "4", "5"]).groups, samples=[0, 1, 2])
    assert is_decided(leader, [3]) is True  # 2:2 falls to sample 0
    late = count_votes(group_answers(["4", "4", "5"]).groups, samples=[1, 2, 3])
    assert is_decided(late, [0]) is False  # 2:2 falls to sample 0, which may say 5


def make_engine(scores, texts):
    def script(request):
        kind, _, number = request.key.request_id.partition("-")
        if isinstance(request, Score):
            assert kind == "reward"
            return Reply(score=scores[int(number)], num_tokens=3)
        return Reply(text=texts[int(number)])

    return ScriptedEngine(script)


def test_a_reward_vote_asks_for_the_reward_of_every_sample_that_states_an_answer():
    engine = make_engine([0.9, 0.2, 0.3, None], [box(4), box(5), box(5), "?"])
    answer = run(SelfConsistency(PROMPT, budget=4, vote="reward"), engine, Even())
    assert answer.text == "4"
    assert dict(answer.votes) == pytest.approx({"4": 0.9, "5": 0.5})
    assert answer.certaindex.reward == pytest.approx(0.9)
    assert answer.usage.reward == 3 * 3
    assert [path.reward for path in answer.paths] == [0.9, 0.2, 0.3, None]


def test_a_given_reward_costs_no_request():
    engine = make_engine([], [box(4), box(5), box(5)])
    rate = {box(4): 0.9, box(5): 0.2}
    program = SelfConsistency(PROMPT, budget=3, vote="reward", rate=lambda completion: rate[completion.text])
    answer = run(program, engine, Even())
    assert answer.text == "4"
    assert not any(isinstance(request, Score) for request in engine.submitted)


def test_a_sample_without_a_reward_weighs_nothing():
    engine = make_engine([None, 0.1], [box(4), box(5)])
    assert run(SelfConsistency(PROMPT, budget=2, vote="reward"), engine, Even()).text == "5"


def test_a_reward_out_of_its_range_is_an_error():
    program = SelfConsistency(PROMPT, budget=1, vote="reward", rate=lambda completion: 3.0)
    with pytest.raises(ProgramError, match=r"reward = 3\.0"):
        run(program, make_engine([], [box(4)]), Even())


def test_a_certainty_vote_weighs_by_the_probability_of_the_answers_tokens():
    def script(request):
        index = int(request.key.request_id.removeprefix("sample-"))
        return Reply(text=box([4, 5, 5][index]), probability=[0.9, 0.3, 0.4][index])

    sampling = SamplingParams(logprobs=True)
    answer = run(
        SelfConsistency(PROMPT, budget=3, sampling=sampling, vote="certainty"), ScriptedEngine(script), Even()
    )
    assert answer.text == "4"
    assert dict(answer.votes) == pytest.approx({"4": 0.9, "5": 0.7})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vote": "loudest"}, "Unknown vote"),
        ({"vote": "certainty"}, "logprobs=True"),
        ({"rate": len}, "reads no reward"),
    ],
)
def test_votes_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SelfConsistency(PROMPT, **options)
