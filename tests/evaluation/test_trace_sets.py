"""Files of traces, policies by name, and the command line that brings them together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_dynasor.cli import main
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.trace_sets import open_traces, replay
from tests.evaluation.kit import record_votes
from tests.evaluation.trace_kit import probed_row, trial_row, write_lines

SHARED = Path(__file__).parents[3] / "shared" / "data" / "traces"
KEYS = [
    "num_questions",
    "accuracy",
    "baseline_accuracy",
    "net_tokens",
    "baseline_tokens",
    "sequential_tokens",
    "baseline_sequential_tokens",
    "early_stop_rate",
]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the recorded traces of real models")


def write(path, traces):
    path.write_text("".join(json.dumps(trace.to_dict()) + "\n" for trace in traces))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "run.jsonl", record_votes("11112222", "22112222", "11111111", "21111111"))


def run(capsys, *argv):
    code = main([str(part) for part in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_replay_ends_with_one_line_of_the_documented_keys(capsys, file):
    code, out, _ = run(capsys, "replay", file, "--policy", "static", "--json")
    row = json.loads(out)
    assert code == 0
    assert list(row) == KEYS
    assert row["num_questions"] == 4
    assert row == summarise(replay(open_traces([file]), "static")).to_dict()


def test_replay_for_people_names_the_baseline(capsys, file):
    _, out, _ = run(capsys, "replay", file, "--policy", "static")
    assert "full budget" in out
    assert "saved" in out


def test_without_a_policy_the_default_of_the_kind_is_replayed(file):
    traces = open_traces([file])
    assert replay(traces) == replay(traces, "forecast")


def test_rows_are_written_one_for_each_question_and_draw(capsys, file, tmp_path):
    rows = tmp_path / "rows.jsonl"
    run(capsys, "replay", file, "--policy", "single_step", "--draws", "3", "--seed", "2", "--rows", rows)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["id"], row["draw"]) for row in found] == [
        (f"q{number}", draw) for draw in range(3) for number in range(4)
    ]


def test_several_files_are_one_set_and_their_questions_are_told_apart(file, tmp_path):
    other = write(tmp_path / "other.jsonl", record_votes("22222222"))
    traces = open_traces([file, other])
    assert [trace.id for trace in traces.programs] == ["q0 (run)", "q1", "q2", "q3", "q0 (other)"]
    assert summarise(replay(traces, "even")).num_questions == 5


def test_a_broken_line_is_reported_the_rest_is_done_and_the_code_is_2(capsys, file):
    file.write_text(file.read_text() + '{"schema": "hf_dynasor.tr')
    code, out, err = run(capsys, "replay", file, "--json")
    assert (code, json.loads(out)["num_questions"]) == (2, 4)
    assert "line 5: not JSON" in err


def test_sweep_prints_a_table_and_one_line_of_json(capsys, file, tmp_path):
    options = [
        "--policies",
        "even",
        "static:entropy=0.5",
        "dynamic_curve",
        "--budgets",
        "6",
        "8",
        "--fit",
        file,
    ]
    code, out, _ = run(capsys, "sweep", file, *options)
    assert code == 0
    assert len(out.splitlines()) == 7
    assert "static:entropy=0.5" in out
    code, out, _ = run(capsys, "sweep", file, *options, "--json", "--plots", tmp_path / "pictures")
    rows = json.loads(out)
    assert [row["policy"] for row in rows[:3]] == ["even", "static:entropy=0.5", "dynamic_curve"]
    assert set(KEYS) < set(rows[0])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "frontier.png",
        "needs.png",
        "signals.png",
        "thresholds.png",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "lucky"], "Unknown policy 'lucky'. Known: adaptive_consistency"),
        (["--policy", "static:luck=1"], "Unknown option of policy 'static' 'luck'"),
        (["--policy", "static:detect_at"], "expected name=value"),
        (["--policy", "static:detect_at=3,detect_at=4"], "option 'detect_at' twice"),
        (["--policy", "dynamic_curve"], "got no points"),
        (["--policy", "missing.json"], "Cannot read missing.json"),
        (["--program", "mcts"], "Known: self_consistency"),
        (["--budget", "9"], "budget of 9"),
        (["--budget", "0"], "budget of 0"),
        (["--draws", "0"], "draws = 0"),
        (["--rows", "/nowhere/rows.jsonl"], "Cannot write /nowhere/rows.jsonl"),
    ],
)
def test_bad_options_are_refused_with_the_value_and_the_fix(capsys, file, options, message):
    code, out, err = run(capsys, "replay", file, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_empty_missing_and_foreign_files_are_refused(capsys, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"hello": "world"}\n')
    for path, message in (
        (empty, "is empty"),
        (tmp_path / "missing.jsonl", "Cannot read"),
        (foreign, "no known trace"),
    ):
        code, _, err = run(capsys, "replay", path)
        assert code == 2
        assert message in err


def test_mixed_models_and_programs_are_refused(tmp_path):
    trace = record_votes("1111")[0]
    for name, value in (("model", "another"), ("program", "rebase")):
        other = replace(trace, id="other", **{name: value})
        path = write(tmp_path / f"{name}.jsonl", [trace, other])
        with pytest.raises(InputError, match=f"traces of {name}s"):
            open_traces([path])


def test_a_question_that_stands_twice_is_refused(tmp_path):
    trace = record_votes("1111")[0]
    with pytest.raises(InputError, match="stands twice"):
        open_traces([write(tmp_path / "twice.jsonl", [trace, trace])])


def test_programs_and_other_traces_do_not_mix(file, tmp_path):
    other = tmp_path / "samples.jsonl"
    other.write_text('{"id": "a", "answer": "1", "samples": ["The answer is 1."]}\n')
    with pytest.raises(InputError, match="together with other traces"):
        open_traces([file, other])


def test_an_unknown_policy_for_chains_lists_the_rules_of_generate_too(capsys, tmp_path):
    path = write_lines(tmp_path / "probed_other_model_math500_seed7.jsonl", probed_row())
    code, _, error = run(capsys, "replay", path, "--policy", "lucky")
    assert code == 2
    assert "boundary_confidence, confidence, consistency" in error


def test_a_policy_file_is_replayed(capsys, file, tmp_path):
    path = tmp_path / "policy.json"
    row = {"schema": "hf_dynasor.policy/1", "kind": "width", "name": "static", "parameters": {"detect_at": 3}}
    path.write_text(json.dumps(row))
    _, by_file, _ = run(capsys, "replay", file, "--policy", path, "--json")
    _, by_name, _ = run(capsys, "replay", file, "--policy", "static:detect_at=3", "--json")
    assert by_file == by_name


def test_eval_records_a_trace_that_replays_to_its_own_summary(capsys, tmp_path):
    questions, trace = tmp_path / "questions.jsonl", tmp_path / "trace.jsonl"
    questions.write_text('{"id": "a", "question": "What is 7+8?", "answer": "15", "level": 2}\n')
    code, out, _ = run(capsys, "eval", questions, "--budget", "4", "--trace", trace, "--json")
    assert code == 0
    summary = json.loads(out.splitlines()[-1])
    _, out, _ = run(capsys, "replay", trace, "--policy", "even", "--json")
    replayed = json.loads(out)
    for key in ("accuracy", "net_tokens", "sequential_tokens"):
        assert replayed[key] == summary[key], key
    assert open_traces([trace]).programs[0].group == "2"


def test_eval_refuses_to_record_a_run_that_may_stop_early(capsys, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "What is 7+8?", "answer": "15"}\n')
    code, _, err = run(capsys, "eval", questions, "--policy", "static", "--trace", tmp_path / "t.jsonl")
    assert code == 2
    assert "Expected 'even'" in err
    assert not (tmp_path / "t.jsonl").exists()


@needs_shared
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt35_last_letters", []),
        pytest.param("gpt4_game24", ["--policy", "static:entropy=0.5"], marks=pytest.mark.slow),
        ("qwen3_8b_aime24", ["--program", "self_consistency", "--budget", "16", "--draws", "2"]),
        ("qwen3_8b_aime24", ["--budget", "16", "--draws", "1"]),
        ("boundary_qwen3_8b_aime24_seed42", []),
        ("probed_r1_qwen_7b_aime24_seed42", ["--policy", "mid"]),
        ("boundary_r1_qwen_7b_amc23_seed42", ["--policy", "boundary_confidence"]),
    ],
)
def test_traces_of_real_models_are_replayed(capsys, name, options):
    code, out, _ = run(capsys, "replay", SHARED / f"{name}.jsonl", *options, "--json")
    row = json.loads(out)
    assert code == 0
    assert list(row) == KEYS
    assert 0 < row["net_tokens"] <= 1.2 * row["baseline_tokens"]


def test_a_run_without_boundaries_must_hold_an_answer_for_longer_by_default(tmp_path):
    probes = [[256 + 512 * place, "9", True, 4] for place in range(9)]
    row = probed_row(num_tokens=9000, probes=probes)
    alone = open_traces([write_lines(tmp_path / "probed_m.jsonl", row)])
    assert replay(alone)[0].stopped_at > replay(alone, "evidence")[0].stopped_at > 3000
    write_lines(tmp_path / "boundary_m.jsonl", trial_row(confidence=0.1))
    beside = open_traces([tmp_path / "probed_m.jsonl"])
    assert replay(beside) == replay(beside, "evidence")


def test_a_smaller_budget_cuts_single_chains_and_asks_them_once_more(tmp_path):
    probes = [[64, "8", True, 4], [128, "9", True, 5], [192, "7", True, 6]]
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(num_tokens=500, probes=probes))
    for budget, tokens, is_right in ((150, 155, True), (64, 64, False), (200, 206, False), (500, 500, True)):
        (row,) = replay(open_traces([path]), "full", budget=budget)
        assert (row.baseline_tokens, row.baseline_is_correct) == (tokens, is_right)
        assert (row.net_tokens, row.is_correct) == (tokens, is_right)
    with pytest.raises(ConfigurationError, match="at least 1 token"):
        replay(open_traces([path]), budget=0)
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        replay(open_traces([path]), draws=3)


def test_giving_up_needs_to_know_the_cap(tmp_path):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row(num_tokens=500))
    write_lines(tmp_path / "boundary_m.jsonl", trial_row(confidence=0.1))
    with pytest.raises(
        InputError, match=r"no chain of m was cut off, so its cap is unknown\. Name it: --cap N"
    ):
        replay(open_traces([path]), "evidence:give_up=0.1")
    assert replay(open_traces([path], cap=1000), "evidence:give_up=0.1")[0].is_early
    assert replay(open_traces([path]), "evidence:give_up=0.1,cap=1000")[0].is_early


def test_the_command_replays_what_it_can_read_and_says_what_it_cannot(tmp_path, capsys):
    path = write_lines(tmp_path / "probed_m.jsonl", probed_row("a"), probed_row("b"))
    path.write_text(path.read_text() + '{"id": "c"\n')
    assert main(["replay", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == KEYS
    assert json.loads(out)["num_questions"] == 2
    assert "line 3: not JSON" in err
    assert "1 broken line left out" in err
