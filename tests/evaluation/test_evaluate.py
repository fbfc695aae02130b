"""Evaluation: totals that add up, errors that count as wrong, intervals that cover."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation import (
    Question,
    estimate_full_tokens,
    evaluate,
    paired_difference,
    wilson_interval,
)
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import Reply, ScriptedEngine, VirtualClock

QUESTIONS = [Question(id=f"q{n}", question=f"What is {n}+{n}?", answer=str(2 * n)) for n in range(6)]


def label(request):
    return request.key.program_id.partition("#")[0]


def right_but_for_q1(request):
    number = int(label(request)[1:])
    return Reply(text=f"\\boxed{{{2 * number if number != 1 else 99}}}", num_tokens=10)


def test_totals_add_up():
    clock = VirtualClock()
    report = evaluate(
        QUESTIONS, Recipe(), ScriptedEngine(right_but_for_q1, rng=random.Random(1)), clock=clock
    )
    assert report.accuracy == pytest.approx(5 / 6)
    assert report.to_dict()["net_tokens"] == 6 * 5 * 10
    assert report.sequential_tokens == 6 * 10
    assert report.early_stop_rate == 1.0
    assert estimate_full_tokens(report) == 6 * 20 * 10
    assert report.seconds == 0.0


def test_results_keep_the_order_of_the_file():
    report = evaluate(QUESTIONS, Recipe(), ScriptedEngine(right_but_for_q1), max_active=2)
    assert [result.question.id for result in report.results] == [f"q{n}" for n in range(6)]
    assert [result.is_correct for result in report.results] == [True, False, True, True, True, True]


def test_a_question_that_ends_with_an_error_counts_as_wrong_and_the_rest_is_done():
    class Picky(ScriptedEngine):
        def submit(self, requests, sink):
            if label(requests[0]) == "q0":
                raise ConfigurationError("too long")
            super().submit(requests, sink)

    rows = []
    report = evaluate(QUESTIONS, Recipe(), Picky(right_but_for_q1), on_result=rows.append)
    assert report.accuracy == pytest.approx(4 / 6)
    assert [result.error for result in report.errors] == ["too long"]
    assert len(rows) == 6


def test_each_question_draws_with_seeds_of_its_own():
    engine = ScriptedEngine(right_but_for_q1)
    evaluate(QUESTIONS, Recipe(seed=0), engine)
    seeds = [request.sampling.seed for request in engine.submitted]
    assert len(set(seeds)) == len(seeds)


def test_the_same_question_draws_the_same_samples_wherever_it_stands():
    def seeds(questions):
        engine = ScriptedEngine(lambda request: Reply(text="\\boxed{1}"))
        evaluate(questions, Recipe(seed=0, budget=2, policy="even"), engine, max_active=1)
        return [request.sampling.seed for request in engine.submitted]

    first, second = QUESTIONS[:2]
    again = Question(id="again", question=first.question, answer="0")
    assert seeds([first, second])[:2] == seeds([second, first])[2:]
    repeated = seeds([first, again])
    assert len(set(repeated)) == 4


def test_when_no_question_can_be_solved_it_is_an_error_and_no_accuracy_of_zero():
    class Refusing(ScriptedEngine):
        def submit(self, requests, sink):
            raise ConfigurationError("the model has no chat template")

    with pytest.raises(InputError, match=r"None of the 6 questions.*no chat template"):
        evaluate(QUESTIONS, Recipe(), Refusing([]))


def test_tokens_of_questions_that_ended_with_an_error_are_counted():
    def script(request):
        if label(request) == "q0":
            return Reply(finish_reason=FinishReason.FAILED, error="oops", num_tokens=100)
        return right_but_for_q1(request)

    report = evaluate(QUESTIONS, Recipe(), ScriptedEngine(script))
    # Five failed samples of q0 agree on nothing, so its whole budget was spent on failures.
    assert report.usage.net_tokens == 20 * 100 + 5 * 5 * 10


def test_no_questions_are_refused():
    with pytest.raises(InputError):
        evaluate([], Recipe(), ScriptedEngine([]))


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_holds_the_share_and_stays_in_range(right, more):
    low, high = wilson_interval(right, right + more)
    assert 0 <= low <= right / (right + more) <= high <= 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.95])
def test_the_interval_covers_about_nineteen_times_in_twenty(share):
    """Exact coverage over the binomial distribution of 100 questions, not a simulation."""
    covered = 0.0
    for right in range(101):
        low, high = wilson_interval(right, 100)
        if low <= share <= high:
            covered += math.comb(100, right) * share**right * (1 - share) ** (100 - right)
    assert 0.93 < covered < 0.98


def test_a_paired_difference_is_narrower_than_two_intervals():
    before = [float(n % 2) for n in range(100)]
    after = list(before)
    after[0] = 1.0
    difference = paired_difference(before, after)
    assert difference.mean == pytest.approx(0.01)
    assert difference.high - difference.low < 0.05 < 2 * 1.96 * math.sqrt(0.25 / 100)
