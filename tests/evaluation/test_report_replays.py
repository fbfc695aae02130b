"""Smaller budgets and policies from a recorded run are those of a real run, or are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation import Question, evaluate
from hf_dynasor.evaluation.policy_specs import parse_policy_spec
from hf_dynasor.evaluation.recording import InGrants
from hf_dynasor.evaluation.records import read_program_traces
from hf_dynasor.evaluation.report_on import write_trace_run
from hf_dynasor.evaluation.report_readings import count_needed, list_readings
from hf_dynasor.evaluation.report_record import record_trace
from hf_dynasor.evaluation.report_replays import open_replay, replay_run
from hf_dynasor.evaluation.report_settings import find_runs
from hf_dynasor.evaluation.report_steps import open_steps, parse_grants
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine
from tests.evaluation.kit import script
from tests.evaluation.report_kit import read_lines, write_votes

QUESTIONS = [
    Question(id="a", question="What is 7*8+5?", answer="61"),
    Question(id="b", question="What is 63*28+145-12*4?", answer="1861"),
    Question(id="c", question="What is 47+58-3*6?", answer="87"),
]


@pytest.fixture(scope="module")
def engine():
    with make_engine("embedded") as engine:
        yield engine


def replay(folder, **options):
    (run,) = find_runs([folder])
    return {
        (setting.key.policy, setting.key.budget): setting
        for setting in replay_run(open_replay(run), **options)
    }


def test_every_budget_of_samples_is_their_prefix(tmp_path):
    found = replay(write_votes(tmp_path / "run", "1222", "2111"))
    rights = {budget: [item.is_right for item in found["even", budget].outcomes] for budget in (1, 2, 3, 4)}
    assert rights == {1: [True, False], 2: [True, False], 3: [False, True], 4: [False, True]}


def test_a_question_whose_samples_all_failed_is_wrong_and_no_error(tmp_path):
    found = replay(write_votes(tmp_path / "run", "!1", "11"), policies=[])
    assert [item.is_right for item in found["even", 1].outcomes] == [False, True]


@pytest.mark.parametrize(
    ("program", "budgets"), [("self_consistency", (1, 2, 4)), ("best_of_n", (1, 3)), ("mcts", (4, 8))]
)
def test_a_smaller_budget_from_the_record_equals_a_real_run_of_it(engine, tmp_path, program, budgets):
    recipe = Recipe(program=program, budget=8, policy="even", temperature=1.0, max_new_tokens=96, seed=3)
    recipe = replace(recipe, logprobs=True)
    record_trace(tmp_path / "run" / "trace.jsonl", QUESTIONS, recipe, engine)
    write_trace_run(tmp_path / "run", model="embedded", dataset="d")
    found = replay(tmp_path / "run", policies=[])
    for budget in budgets:
        real = evaluate(QUESTIONS, replace(recipe, budget=budget), engine)
        ours = {item.id: item for item in found["even", budget].outcomes}
        for result in real.results:
            mine = ours[result.question.id]
            assert (mine.answer, mine.is_right) == (result.answer.text, result.is_correct)
            assert mine.net_tokens == result.usage.net_tokens
            assert mine.sequential_tokens == result.answer.sequential_tokens


def test_a_policy_on_a_tree_recorded_in_grants_decides_as_it_would_live(engine, tmp_path):
    recipe = Recipe(program="rebase", budget=6, policy="even", temperature=1.0, max_new_tokens=96, seed=3)
    record_trace(
        tmp_path / "run" / "trace.jsonl", QUESTIONS, replace(recipe, policy=InGrants(sizes=(3,))), engine
    )
    write_trace_run(tmp_path / "run", model="embedded", dataset="d", grants=(3, 3))
    spec = "static:entropy=0.5,detect_at=3"
    found = replay(tmp_path / "run", policies=[spec])
    assert set(found) == {(spec, 6)}, "what it spent in grants is not an even run"
    live = evaluate(QUESTIONS, replace(recipe, policy=parse_policy_spec(spec).build_width()), engine)
    ours = {item.id: item for item in found[spec, 6].outcomes}
    for result in live.results:
        mine = ours[result.question.id]
        assert mine.answer == result.answer.text
        assert mine.net_tokens == result.usage.net_tokens
        assert mine.units == result.answer.units_spent
        assert mine.is_early == result.answer.is_early


def test_a_policy_that_stops_where_nothing_was_recorded_is_told_and_left_out(engine, tmp_path):
    recipe = Recipe(program="mcts", budget=8, policy="even", temperature=1.0, max_new_tokens=64, seed=3)
    record_trace(tmp_path / "run" / "trace.jsonl", QUESTIONS[:1], recipe, engine)
    write_trace_run(tmp_path / "run", model="embedded", dataset="d")
    notes = []
    found = replay(tmp_path / "run", policies=["mcts/asdiv"], on_skip=notes.append)
    assert set(found) == {("even", 4), ("even", 8)}
    assert "stops at 3 iterations" in notes[0]
    assert "4, 8 only" in notes[0]


def test_a_tree_of_one_grant_has_no_smaller_budgets(engine, tmp_path):
    recipe = Recipe(program="rebase", budget=4, policy="even", temperature=1.0, max_new_tokens=64, seed=3)
    record_trace(tmp_path / "run" / "trace.jsonl", QUESTIONS[:1], recipe, engine)
    write_trace_run(tmp_path / "run", model="embedded", dataset="d")
    assert set(replay(tmp_path / "run")) == {("even", 4)}


def test_grants_are_read_from_their_name_and_rubbish_is_refused():
    assert parse_grants("in_grants:4,12") == (4, 12)
    with pytest.raises(InputError, match="in_grants:"):
        parse_grants("in_grants:four")


def test_a_recording_that_was_cut_off_ends_as_one_that_was_not(tmp_path):
    votes = ("112", "122", "333", "111")
    questions = [Question(id=f"q{i}", question=f"Question {i}?", answer="1") for i in range(4)]
    recipe = Recipe(budget=3, seed=None, policy="even")
    whole, half = tmp_path / "whole.jsonl", tmp_path / "half.jsonl"
    assert record_trace(whole, questions, recipe, script(votes)) == 4
    assert record_trace(half, questions[:2], recipe, script(votes)) == 2
    half.write_text(half.read_text()[:-40])  # killed in the middle of a line
    assert record_trace(half, questions, recipe, script(votes)) == 3
    assert record_trace(half, questions, recipe, script(votes)) == 0, "all is done"
    in_order = {row["id"]: row for row in read_lines(half)}
    assert in_order == {row["id"]: row for row in read_lines(whole)}


def test_the_same_question_twice_is_refused(tmp_path):
    twice = [Question(id=id, question="Question 0?", answer="1") for id in ("a", "b")]
    with pytest.raises(InputError, match="twice"):
        record_trace(tmp_path / "t.jsonl", twice, Recipe(budget=1, policy="even"), script(["1"]))


def test_readings_tell_solved_questions_from_the_others(tmp_path):
    run = open_replay(find_runs([write_votes(tmp_path / "run", "111111", "121111", "222222", "212222")])[0])
    (readings,) = list_readings([run])
    assert readings.detect_at == 5
    assert readings.needs == ((1.0, 1), (pytest.approx(0.6893, abs=1e-3), 1))
    assert set(readings.growth) == {"right at the end (2 questions)", "wrong at the end (2 questions)"}


def test_the_units_needed_are_those_after_which_the_answer_stays_right(tmp_path):
    folder = write_votes(tmp_path / "run", "122111", "112222")
    needed = [
        count_needed(open_steps(trace)) for trace in read_program_traces([folder / "trace.jsonl"]).traces
    ]
    assert needed == [4, None], "of equals the answer that was seen first wins"
