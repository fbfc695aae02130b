"""`hf-dynasor report`: runs in, a page out; `--on` from nothing to a page."""

from __future__ import annotations

import json

import pytest

from hf_dynasor.cli import report as reports
from hf_dynasor.cli.main import main
from hf_dynasor.errors import MissingExtraError
from hf_dynasor.evaluation.questions import Question
from tests.evaluation.report_kit import write_votes


def test_runs_become_a_page_a_table_and_figures(tmp_path, capsys):
    run = write_votes(tmp_path / "run", "11111111", "12111211", "22222222")
    page, table, figures = (tmp_path / name for name in ("r.html", "r.md", "r.json"))
    argv = ["report", str(run), "--output", str(page), "--markdown", str(table), "--json", str(figures)]
    assert main([*argv, "--policies", "static:entropy=0.6,detect_at=4", "--budgets", "4", "8"]) == 0
    assert "wrote" in capsys.readouterr().out
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "--policies static:entropy=0.6,detect_at=4" in table.read_text(), "the command is told"
    rows = json.loads(figures.read_text())["rows"]
    assert {(row["policy"], row["budget"]) for row in rows} == {
        ("even", 4),
        ("even", 8),
        ("static:entropy=0.6,detect_at=4", 4),
        ("static:entropy=0.6,detect_at=4", 8),
    }


def test_nothing_to_read_and_nothing_to_run_is_an_error(capsys):
    assert main(["report"]) == 2
    assert "no --on" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_says_so(tmp_path, capsys):
    run = write_votes(tmp_path / "run", "11", "12")
    assert main(["report", str(run), "--output", str(tmp_path / "nowhere" / "r.html")]) == 2
    assert "Choose a file in a folder that exists" in capsys.readouterr().err


def test_one_command_makes_the_runs_and_the_page_and_goes_on_where_it_was(tmp_path, capsys):
    argv = [
        "report",
        "--on",
        "embedded",
        "--folder",
        str(tmp_path / "runs"),
        "--seeds",
        "2",
        "--budgets",
        "1",
        "4",
    ]
    argv += ["--programs", "self_consistency", "mcts", "--output", str(tmp_path / "r.html")]
    argv += ["--json", str(tmp_path / "r.json")]
    assert main([*argv, "--num-questions", "2"]) == 0
    trace = tmp_path / "runs" / "embedded" / "self_consistency-4-seed0" / "trace.jsonl"
    before = trace.read_text()
    assert main([*argv, "--num-questions", "3"]) == 0
    assert trace.read_text().startswith(before), "what was recorded is kept"
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert {(row["program"], row["budget"]) for row in rows} == {
        ("self_consistency", 1),
        ("self_consistency", 4),
        ("mcts", 4),
    }
    assert all((row["num_questions"], row["num_seeds"]) == (3, 2) for row in rows)
    capsys.readouterr()


def test_more_questions_than_a_plan_has_are_all_it_has():
    assert len({question.id for question in reports.make_questions("smollm2", 100)}) == 81
    assert [question.id for question in reports.make_questions("smollm2", 3)] == [
        question.id for question in reports.make_sums()[:3]
    ]


def test_what_a_plan_has_not_is_noted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reports, "make_questions", lambda name, num: make_three()[:num])
    argv = ["report", "--on", "embedded", "--programs", "self_consistency", "--seeds", "1", "--budgets", "1"]
    argv += ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "r.html")]
    assert main([*argv, "--num-questions", "4"]) == 0
    assert "has 3 questions, not 4: all of them are run" in capsys.readouterr().err
    assert main([*argv, "--num-questions", "3"]) == 0
    assert "all of them" not in capsys.readouterr().err


def make_three() -> list[Question]:
    return [Question(id=str(n), question=f"What is {n}+1?", answer=str(n + 1)) for n in range(3)]


def test_embedded_questions_are_distinct_and_the_first_stay_the_first():
    few, many = reports.make_questions("embedded", 5), reports.make_questions("embedded", 1900)
    assert many[:5] == few
    assert len({question.question for question in many}) == 1900


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--policies", "nope"], "Unknown policy 'nope'"),
        (["--programs", "nope"], "Unknown program of this report 'nope'"),
        (["--markdown", "/nowhere/at/all.md"], "no such folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(more, message, tmp_path, capsys):
    argv = ["report", "--on", "smollm2", "embedded", "--folder", str(tmp_path / "runs")]
    assert main([*argv, "--output", str(tmp_path / "r.html"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plan_without_the_programs_asked_for_is_left_out(tmp_path, capsys):
    argv = ["report", "--on", "smollm2", "embedded", "--folder", str(tmp_path / "runs")]
    argv += ["--programs", "mcts", "--seeds", "1", "--budgets", "4", "--num-questions", "1"]
    assert main([*argv, "--output", str(tmp_path / "r.html")]) == 0
    assert "the plan smollm2 has none of the programs" in capsys.readouterr().err
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["embedded"]


def test_a_model_that_is_not_installed_is_told_before_another_plan_runs(tmp_path, capsys, monkeypatch):
    def miss():
        raise MissingExtraError("not installed")

    monkeypatch.setattr(reports, "_find_smollm2", miss)
    argv = ["report", "--on", "embedded", "smollm2", "--folder", str(tmp_path / "runs"), "--seeds", "1"]
    argv += ["--programs", "self_consistency", "--budgets", "1", "--num-questions", "1"]
    assert main([*argv, "--output", str(tmp_path / "r.html")]) != 0
    assert "not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
