"""Replays: the decisions that would have been taken, from the record alone."""

import itertools
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.drivers import run
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.errors import ConfigurationError, HFDynasorError, InputError
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.replay import read_recipe, replay_answer, replay_programs
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.samples import SampleRun, draw_samples, read_samples, replay_samples
from hf_dynasor.grants import Decision, StopReason
from hf_dynasor.recipe import Recipe, count_repeats
from hf_dynasor.scheduler import (
    AdaptiveConsistency,
    ConsistentWindow,
    DynamicCurve,
    Even,
    FiveStep,
    InitialStepCurve,
    Length,
    SingleStep,
    StaticThreshold,
    VoteForecast,
)
from tests.evaluation.kit import record, record_votes

POINTS = ((0.35, 10), (0.6, 8), (0.7, 6), (1.0, 4))
POLICIES = [
    Even(),
    StaticThreshold(),
    StaticThreshold(detect_at=3, give_up=Thresholds(entropy=0.3)),
    StaticThreshold(detect_at=4, thresholds=Thresholds(entropy=0.5, answer_probability=0.6)),
    Length(max_tokens=180, detect_at=4),
    FiveStep(detect_at=3, every=3),
    SingleStep(detect_at=2),
    InitialStepCurve(points=POINTS, detect_at=4),
    DynamicCurve(points=POINTS, detect_at=3),
    DynamicCurve(points=((0.5, 9), (0.9, 4)), signal="answer_probability", detect_at=2),
    AdaptiveConsistency(),
    AdaptiveConsistency(confidence=0.8, posterior="dirichlet", every=2),
    ConsistentWindow(window=3),
    VoteForecast(),
    VoteForecast(risk=0.0, max_grants=None),
]
VOTES = st.text(alphabet="11112345?~!", min_size=8, max_size=8)


def name(policy):
    return f"{policy.name}-{POLICIES.index(policy)}"


def describe(answer):
    """Everything that a decision rests on and leads to; prompt tokens depend on the batch."""
    grants = [
        (item.units, item.total, item.certaindex, item.usage.net_tokens, item.sequential_tokens, item.groups)
        for item in answer.trace
    ]
    return grants, answer.text, answer.stop_reason, answer.explanation, answer.votes


@pytest.fixture(scope="module")
def engine():
    from hf_dynasor.serving import make_engine

    with make_engine("embedded", engine="generate") as engine:
        yield engine


@pytest.fixture(scope="module")
def questions():
    """Levels at which the embedded reasoner is neither always right nor always lost."""
    problems = generate_problems(3, seed=7, split="test", levels=(4, 5, 6))
    return [Question(id=item.id, question=item.question, answer=item.answer) for item in problems]


@pytest.fixture(scope="module")
def recorded(engine, questions):
    return record(questions, Recipe(budget=8, temperature=0.8, seed=3, logprobs=True), engine)


def mark(policy):
    """The variants of a policy that is here already take their time in the slow suite."""
    is_variant = any(type(other) is type(policy) for other in POLICIES[: POLICIES.index(policy)])
    return pytest.param(policy, id=name(policy), marks=[pytest.mark.slow] if is_variant else [])


@pytest.mark.parametrize("policy", [mark(policy) for policy in POLICIES])
def test_replayed_decisions_are_the_live_decisions(engine, questions, recorded, policy):
    recipe = Recipe(budget=8, temperature=0.8, seed=3, logprobs=True, policy=policy)
    repeats = count_repeats(question.question for question in questions)
    for trace, question, (_, repeat) in zip(recorded, questions, repeats, strict=True):
        program, used = recipe.build(question.question, repeat=repeat)
        live = run(program, engine, used)
        assert describe(replay_answer(trace, policy)) == describe(live)
        records, decision = SampleRun(read_samples(trace)).run(policy)
        assert [(item.units, item.certaindex, item.groups) for item in records] == [
            (item.units, item.certaindex, item.groups) for item in live.trace
        ]
        assert decision.explanation == live.explanation


@pytest.mark.parametrize("policy", POLICIES, ids=name)
@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize("budget", [None, 6])
def test_the_fast_replay_is_the_exact_one(recorded, policy, draws, budget):
    fast = replay_programs(recorded, policy, budget=budget, draws=draws, seed=5)
    exact = replay_programs(recorded, policy, budget=budget, draws=draws, seed=5, exact=True)
    assert fast == exact


@given(VOTES, st.sampled_from(POLICIES), st.sampled_from([None, 2]))
@settings(max_examples=60, deadline=None)
def test_the_fast_replay_is_the_exact_one_whatever_was_sampled(votes, policy, draws):
    """Silence, failures and cut-off samples included; where no sample is left, both say so."""
    try:
        traces = record_votes(votes)
    except HFDynasorError:
        return
    outcomes = []
    for exact in (False, True):
        try:
            outcomes.append(replay_programs(traces, policy, draws=draws, exact=exact))
        except HFDynasorError as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_a_tree_is_replayed_by_its_own_program(engine, questions):
    """One iteration at a time: then what the first iterations did is what a shorter search would have done."""
    recipe = Recipe(
        program="mcts", budget=5, temperature=0.8, seed=1, program_options={"num_parallel": 1}, policy="even"
    )
    policy = StaticThreshold(detect_at=2, thresholds=Thresholds(reward=0.5))
    for trace in record(questions[:2], recipe, engine):
        question = next(item for item in questions if item.id == trace.id)
        program, _ = recipe.build(question.question)
        live = run(program, engine, policy)
        assert describe(replay_answer(trace, policy)) == describe(live)
        row = replay_programs([trace], policy)[0]
        assert (row.net_tokens, row.stopped_at) == (live.usage.net_tokens, live.units_spent)


class InTwos:
    """Two trees of width 2 where the record has one of width 4."""

    name = "in_twos"

    def allocate(self, knob, trace):
        left = knob.maximum - (trace[-1].total if trace else 0)
        return Decision(units=min(2, left), stop_reason=None if left else StopReason.BUDGET)


def test_a_tree_whose_shape_depends_on_the_grants_is_refused_not_guessed(engine, questions):
    greedily = {
        "reward_temperature": 0.01
    }  # all of the width goes to the best: two trees grow otherwise than one
    recipe = Recipe(program="rebase", budget=4, temperature=1.2, seed=1, program_options=greedily)
    traces = record(questions, recipe, engine)
    assert replay_programs(traces, Even())[0].is_early is False
    with pytest.raises(InputError, match=r"not the recorded one|has no request"):
        replay_programs(traces, InTwos())
    with pytest.raises(InputError, match="a tree"):
        replay_programs(traces, Even(), draws=2)


def test_rows_tell_tokens_waves_and_grades():
    traces = record_votes("11112222", "22221111")
    rows = replay_programs(traces, StaticThreshold(detect_at=4))
    assert [(row.answer, row.is_correct, row.baseline_is_correct) for row in rows] == [
        ("1", True, True),
        ("2", False, False),
    ]
    tokens = [[5 + (index * 7 + number) % 11 for index in range(8)] for number in range(2)]
    assert [row.net_tokens for row in rows] == [sum(part[:4]) for part in tokens]
    assert [row.baseline_tokens for row in rows] == [sum(part) for part in tokens]
    assert [row.sequential_tokens for row in rows] == [max(part[:4]) for part in tokens]
    assert [row.is_early for row in rows] == [True, True]


def test_waves_add_up_and_samples_of_a_wave_do_not():
    row = replay_programs(record_votes("12121212"), FiveStep(detect_at=4, every=2))[0]
    tokens = [5 + index * 7 % 11 for index in range(8)]
    assert row.sequential_tokens == max(tokens[:4]) + max(tokens[4:6]) + max(tokens[6:])
    assert row.baseline_sequential_tokens == max(tokens)


def test_an_early_stop_that_loses_the_answer_is_counted_against_the_policy():
    rows = replay_programs(record_votes("22211111", "11111111"), StaticThreshold(detect_at=3))
    assert [row.is_lost for row in rows] == [True, False]
    summary = summarise(rows)
    assert (summary.accuracy, summary.baseline_accuracy) == (0.5, 1.0)


def test_draws_are_orders_of_the_same_samples():
    samples = [read_samples(trace) for trace in record_votes("1234?~11")]
    for _, drawn in draw_samples(samples, 4, seed=1):
        assert sorted(map(str, drawn.samples)) == sorted(map(str, samples[0].samples))
    orders = [[item.answer for item in drawn.samples] for _, drawn in draw_samples(samples, 4, seed=1)]
    assert orders == [
        [item.answer for item in drawn.samples] for _, drawn in draw_samples(samples, 4, seed=1)
    ]
    assert len({tuple(order) for order in orders}) > 1
    assert orders != [
        [item.answer for item in drawn.samples] for _, drawn in draw_samples(samples, 4, seed=2)
    ]


def test_a_question_draws_the_same_whatever_else_is_in_the_set():
    traces = record_votes("12121?11", "11222221")
    both = replay_programs(traces, SingleStep(), draws=3)
    alone = replay_programs(traces[1:], SingleStep(), draws=3)
    assert [row for row in both if row.id == "q1"] == alone


def test_every_order_is_drawn_about_as_often():
    """24 orders of four votes, 4,800 draws: chi-squared with 23 degrees passes 60 by chance in 4 of 100,000."""
    samples = [read_samples(trace) for trace in record_votes("1234")]
    drawn = [tuple(x.answer for x in item.samples) for _, item in draw_samples(samples, 4800, seed=0)]
    counts = [drawn.count(order) for order in itertools.permutations("1234")]
    assert sum((count - 200) ** 2 / 200 for count in counts) < 60


def test_a_budget_below_the_recorded_one_is_the_full_budget_of_the_replay():
    rows = replay_programs(record_votes("11222222"), Even(), budget=2)
    assert (rows[0].baseline_is_correct, rows[0].is_early, rows[0].stopped_at) == (True, False, 2)
    with pytest.raises(ConfigurationError, match="budget of 9"):
        replay_programs(record_votes("11222222"), Even(), budget=9)


def test_bad_input_is_refused():
    traces = record_votes("1111")
    with pytest.raises(InputError, match="no trace"):
        replay_programs([], Even())
    with pytest.raises(ConfigurationError, match="draws = 0"):
        replay_programs(traces, Even(), draws=0)
    with pytest.raises(ConfigurationError, match="draws = 0"):
        replay_programs(traces, Even(), draws=0, exact=True)
    strange = replace(traces[0], recipe={**traces[0].recipe, "mood": "good"})
    with pytest.raises(InputError, match="unknown fields: mood"):
        read_recipe(strange, Even(), 4)


def test_a_record_of_another_prompt_is_refused():
    trace = record_votes("1111")[0]
    other = replace(trace, question="Another question?")
    with pytest.raises(InputError, match="another prompt"):
        replay_answer(other, Even())


def test_a_record_without_a_sample_is_refused():
    trace = record_votes("1111")[0]
    with pytest.raises(InputError, match="no completion of sample-3"):
        replay_programs([replace(trace, completions=trace.completions[:3])], Even())
    with pytest.raises(InputError, match="has no request 'sample-3'"):
        replay_programs([replace(trace, completions=trace.completions[:3])], Even(), exact=True)


def test_programs_are_replayed_without_reading_a_text(monkeypatch):
    """Once the samples are read, no text is searched and no answer is read again."""
    rng = random.Random(0)
    votes = ["".join(rng.choice("1112345?") for _ in range(20)) for _ in range(20)]
    samples = [read_samples(trace) for trace in record_votes(*votes)]

    def refuse(*args, **kwargs):
        raise AssertionError("a text was read again")

    monkeypatch.setattr("hf_dynasor.programs.self_consistency.find_answer", refuse)
    monkeypatch.setattr("hf_dynasor.answers.grouping.canonicalise", refuse)
    assert len(replay_samples(samples, SingleStep(), draws=5)) == 100


def test_rows_are_ready_for_json():
    row = replay_programs(record_votes("1111"), Even())[0]
    assert json.loads(json.dumps(row.to_dict()))["id"] == "q0"
