"""Chains of our own, recorded to their end: what their rule decides in a replay is what it decides live."""

import json
from dataclasses import replace

import pytest

from hf_dynasor.cli.main import main
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.calibrate_traces import ReplayOptions, find_kind
from hf_dynasor.evaluation.opened import OpenTraces
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replay_chains import read_recorded_rule, replay_chains, run_rules_to_end
from hf_dynasor.evaluation.trace_sets import replay
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine
from tests.evaluation.kit import record

QUESTIONS = [
    Question(id=f"q{place}", question=f"Solve {text}.", answer=answer)
    for place, (text, answer) in enumerate([("47+58-3*6", "87"), ("12*11+5", "137"), ("(83-7)*4+19", "323")])
]
RULE = {"name": "evidence", "parameters": {"far": 24, "near": 8, "caution": 1.0, "fall": 1.0}}
RECIPE = Recipe(
    program="chain_of_thought",
    budget=400,
    seed=0,
    program_options={"rule": RULE, "suffix": "short"},
)


@pytest.fixture(scope="module")
def engine():
    with make_engine("embedded") as engine:
        yield engine


@pytest.fixture(scope="module")
def traces(engine):
    rows = record(QUESTIONS, run_rules_to_end(RECIPE), engine)
    return [ProgramTrace.from_dict(json.loads(json.dumps(row.to_dict()))) for row in rows]


def with_threshold(threshold):
    rule = {"name": "evidence", "parameters": {**RULE["parameters"], "threshold": threshold}}
    return replace(RECIPE, program_options={**RECIPE.program_options, "rule": rule})


@pytest.mark.parametrize("threshold", [1.0, 8.0, 50.0])
def test_replayed_decisions_are_the_live_ones(engine, traces, threshold):
    rows = replay_chains(traces, "evidence", {"threshold": threshold})
    for question, row in zip(QUESTIONS, rows, strict=True):
        program, policy = with_threshold(threshold).build(question.question, label=question.id)
        answer = run(program, engine, policy)
        assert (row.answer, row.explanation, row.stopped_at) == (
            answer.text,
            answer.explanation,
            answer.units_spent,
        )
        assert row.net_tokens == answer.usage.net_tokens


def test_a_low_threshold_stops_and_an_unreachable_one_costs_its_probes_only(traces):
    early = replay_chains(traces, "evidence", {"threshold": 0.5, "caution": 0.0, "least": 0.0})
    assert any(row.is_early for row in early)
    never = replay_chains(traces, "evidence", {"threshold": 99.0})
    assert not any(row.is_early for row in never)
    assert all(row.net_tokens > row.baseline_tokens for row in never)
    assert all(row.is_correct == row.baseline_is_correct for row in never)


def test_recorded_chains_are_calibrated_as_single_thoughts_by_default(traces):
    opened = OpenTraces(kind="program", programs=tuple(traces))
    assert find_kind(opened, ReplayOptions()) == "depth"
    assert read_recorded_rule(traces)["parameters"]["far"] == 24
    assert replay(opened) == replay_chains(traces, "evidence", {})
    assert replay(opened, "even") != replay(opened)
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        replay(opened, draws=2)


def test_a_rule_that_asks_elsewhere_is_refused(traces):
    with pytest.raises(InputError, match=r"recorded with another end|not the recorded one"):
        replay_chains(traces, "answer_consistency", {"interval": 10})
    with pytest.raises(ConfigurationError, match="'windows'"):
        replay_chains(traces, "answer_consistency", {"windows": 10})


def test_other_programs_are_recorded_as_they_are():
    recipe = Recipe(budget=3)
    assert run_rules_to_end(recipe) is recipe
    plain = Recipe(program="chain_of_thought", program_options={"mode": "plain"})
    assert run_rules_to_end(plain) is plain


@pytest.mark.slow
def test_eval_calibrates_and_solves_with_its_own_file(tmp_path, capsys):
    policy, traces, chosen = (str(tmp_path / name) for name in ("rule.json", "traces.jsonl", "chosen.json"))
    row = {"schema": "hf_dynasor.policy/1", "kind": "depth", **RULE, "exit": "paste", "suffix": "short"}
    (tmp_path / "rule.json").write_text(json.dumps(row))
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"question": q.question, "answer": q.answer}) + "\n" for q in QUESTIONS)
    )
    chain = ["--program", "chain_of_thought", "--budget", "400"]
    assert main(["eval", str(questions), *chain, "--policy", policy, "--trace", traces]) == 0
    assert main(["calibrate", traces, "--risk", "0.7", "--confidence", "0.5", "--output", chosen]) == 0
    written = json.loads((tmp_path / "chosen.json").read_text())
    assert (written["kind"], written["certificate"]["budget"]) == ("depth", 400)
    capsys.readouterr()
    if written["name"] == "evidence":
        assert main(["solve", "What is 2+3?", *chain, "--policy", chosen, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["answer"] == "5"
