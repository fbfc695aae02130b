"""A run on disk: what was written is read back, totals add up, broken folders say what is broken."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation import Question, evaluate, wilson_interval
from hf_dynasor.evaluation.run_folder import (
    ARGUMENTS_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    SCHEMA,
    Prediction,
    RunInfo,
    RunTotals,
    read_run,
    summarise,
    write_run,
)
from hf_dynasor.evaluation.statistics import share_interval
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import Reply, ScriptedEngine

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
INFO = RunInfo(
    name="self_consistency static 5",
    task="gsm8k",
    dataset="questions.jsonl",
    model="embedded",
    engine="scripted",
    program="self_consistency",
    policy="static",
    budget=5,
    unit="samples",
    seeds=(0, 1),
    settings={"temperature": 0.7},
    versions={"python": "3.13"},
)

counts = st.integers(0, 1000)
usages = st.builds(Usage, prompt=counts, sampled=counts, forced=counts, probe=counts, reward=counts)
predictions = st.builds(
    Prediction,
    id=st.text(min_size=1, max_size=5),
    seed=st.none() | st.integers(0, 3),
    question=st.text(max_size=20),
    gold=st.text(max_size=5),
    group=st.none() | st.text(max_size=3),
    answer=st.none() | st.text(max_size=5),
    is_right=st.booleans(),
    stop_reason=st.sampled_from(["certain", "budget", None]),
    certaindex=st.dictionaries(st.sampled_from(["entropy", "agreement"]), st.floats(0, 1)),
    grants=st.just(({"units": 5, "total": 5, "certaindex": {}, "net_tokens": 3, "sequential_tokens": 2},)),
    votes=st.just((("4", 1.0),)),
    usage=usages,
    sequential_tokens=counts,
    budget=st.integers(1, 20),
    unit=st.just("samples"),
    is_early=st.booleans(),
    error=st.none() | st.text(max_size=5),
)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(predictions, min_size=1, max_size=6))
def test_what_was_written_is_read_back(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    totals = write_run(folder, INFO, rows, arguments={"seed": 0}, seconds=1.5)
    run = read_run(folder)
    assert run.predictions == tuple(rows)
    assert (run.info, run.totals, run.arguments, run.seconds) == (INFO, totals, {"seed": 0}, 1.5)
    assert run.trace_path is None


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(predictions, min_size=1, max_size=6))
def test_totals_add_up_and_do_not_depend_on_the_order(rows):
    totals = summarise(rows)
    assert totals.net_tokens == sum(row.net_tokens for row in rows)
    parts = totals.sampled_tokens + totals.forced_tokens + totals.probe_tokens + totals.reward_tokens
    assert parts == totals.net_tokens
    assert totals.accuracy_interval[0] <= totals.accuracy <= totals.accuracy_interval[1]
    assert summarise(rows[::-1]) == totals


def test_a_line_says_what_the_program_said(tmp_path):
    questions = [Question(id="a", question="2+2?", answer="4", group="easy")]
    engine = ScriptedEngine(lambda request: Reply(text="\\boxed{4}", num_tokens=7))
    recipe = Recipe(budget=20, seed=3)
    (result,) = evaluate(questions, recipe, engine).results
    row = Prediction.from_result(result, seed=3, budget=20, unit="samples")
    assert (row.answer, row.gold, row.group, row.is_right, row.stop_reason) == (
        "4",
        "4",
        "easy",
        True,
        "certain",
    )
    assert (row.net_tokens, row.sequential_tokens, row.units_spent, row.is_early) == (35, 7, 5, True)
    assert row.certaindex["entropy"] == 1.0
    assert row.grants[0]["certaindex"]["entropy"] == 1.0


def test_one_answer_a_question_has_wilsons_interval():
    assert share_interval([[True]] * 8 + [[False]] * 2) == pytest.approx(wilson_interval(8, 10))


def test_seeds_that_always_agree_are_worth_one_and_seeds_that_do_not_are_worth_more():
    same = share_interval([[True] * 5, [False] * 5] * 10)
    apart = share_interval([[True, False, True, False]] * 20)
    assert same == pytest.approx(wilson_interval(10, 20))
    assert apart == pytest.approx(wilson_interval(40, 80))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=12))
def test_the_interval_of_several_seeds_holds_the_share_and_is_no_wider_than_one_for_each_question(rights):
    low, high = share_interval(rights)
    share = sum(map(sum, rights)) / sum(map(len, rights))
    assert 0 <= low <= share + 1e-12
    assert share <= high + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("rights", [[], [[]], [[True], []]])
def test_an_interval_of_nothing_is_refused(rights):
    with pytest.raises(ConfigurationError, match="at least one"):
        share_interval(rights)


def write(folder):
    row = Prediction(
        id="a", seed=0, question="?", gold="4", is_right=False, usage=Usage(), budget=5, unit="samples"
    )
    write_run(folder, INFO, [row], arguments={}, seconds=0)


@pytest.mark.parametrize("name", [RESULTS_FILE, PREDICTIONS_FILE, ARGUMENTS_FILE])
def test_a_folder_without_one_of_its_files_is_refused_by_name(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        read_run(tmp_path)


def test_another_schema_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / RESULTS_FILE
    path.write_text(path.read_text().replace(SCHEMA, "hf_dynasor.run/99"))
    with pytest.raises(InputError, match=r"hf_dynasor\.run/1"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "line", ['{"id": "a"}', "{", '{"id": "a", "unknown": 1, "usage": {}, "grants": [], "votes": []}']
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line):
    write(tmp_path)
    with (tmp_path / PREDICTIONS_FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_run(tmp_path)


def test_a_run_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no predictions"):
        write_run(tmp_path, INFO, [], arguments={}, seconds=0)


def test_results_are_one_flat_object_with_the_totals(tmp_path):
    write(tmp_path)
    row = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert {item.name for item in (*fields(RunInfo), *fields(RunTotals))} <= set(row)


@pytest.mark.parametrize("record", [Prediction, RunInfo, RunTotals])
def test_every_field_of_a_run_is_described(record):
    assert SCHEMA in PAGE
    for item in fields(record):
        assert f"`{item.name}`" in PAGE, item.name
