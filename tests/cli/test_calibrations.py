"""`hf-dynasor calibrate` and `drift` from files to files: promises, refusals, exit codes."""

import json
import random

import pytest

from hf_dynasor.cli import main
from hf_dynasor.scheduler.policy_file import load_policy
from hf_dynasor.stopping.policy import DepthPolicy


def write_run(folder, *, model="tiny", dataset="sums", number=150, lost=0, right=1.0, seed=42, length=1000):
    """A run of chains: most are sure of the right answer halfway, `lost` of them of a wrong one."""
    rng, probed, trials = random.Random(f"{model}/{dataset}/{seed}"), [], []
    for index in range(number):
        is_right, tokens = index < right * number, int(length * rng.uniform(0.8, 1.25))
        answer = "4" if is_right else "5"
        early = "9" if index < lost else answer
        id = f"{dataset}-{index}"
        probed.append(
            {
                "id": id,
                "question": "2+2?",
                "answer": "4",
                "num_tokens": tokens,
                "finish_reason": "stop",
                "final_answer": answer,
                "is_correct": is_right,
                "probes": [[tokens // 2, early, True, 10]],
            }
        )
        trial = {"position": tokens // 2, "answer": early, "confidence": 0.99999, "num_tokens": 5}
        trials.append({"id": id, "trials": [trial | {"logprobs": [-0.00001]}]})
    name = f"{model}_{dataset}_seed{seed}.jsonl"
    for prefix, rows in (("probed_", probed), ("boundary_", trials)):
        (folder / f"{prefix}{name}").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / f"boundary_{name}")


def call(*words):
    return main([str(word) for word in words])


def call_json(capsys, *words, expected=0):
    assert call(*words, "--json") == expected
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_policy_is_calibrated_written_and_loaded_where_chains_are_stopped(tmp_path, capsys):
    traces, file = write_run(tmp_path), tmp_path / "policy.json"
    row = call_json(capsys, "calibrate", traces, "--output", file)
    assert load_policy(file).to_dict() == row["policy"]
    certificate = row["policy"]["certificate"]
    assert (certificate["num_questions"], certificate["num_needed"]) == (150, 114)
    assert certificate["tokens_saved"]["share"] > 0.4
    assert certificate["model"] == "tiny"
    assert str(tmp_path) not in file.read_text()
    assert DepthPolicy.from_file(file).rule.threshold == row["policy"]["parameters"]["threshold"]
    assert DepthPolicy.from_file(file).exit == "paste"
    assert [setting["is_certified"] for setting in row["settings"]] == [True] * len(row["settings"])


def test_the_report_for_people_names_the_promise(tmp_path, capsys):
    assert call("calibrate", write_run(tmp_path), "--risk", "0.03") == 0
    out = capsys.readouterr().out
    assert "answers lost below 3.00%, with confidence 90%" in out
    assert "150 questions (at least 76 needed)" in out


def test_too_few_questions_write_the_full_budget(tmp_path, capsys):
    traces, file = write_run(tmp_path, number=60), tmp_path / "policy.json"
    certificate = call_json(capsys, "calibrate", traces, "--output", file)["policy"]["certificate"]
    assert certificate["is_run_to_cap"]
    assert "at least 114" in certificate["warnings"][0]
    policy = DepthPolicy.from_file(file)  # a rule that never stops
    assert policy.rule.maximum is None
    assert call_json(capsys, "replay", traces, "--policy", file)["early_stop_rate"] == 0


def test_seeds_of_one_model_are_draws_of_its_questions(tmp_path, capsys):
    files = [write_run(tmp_path, seed=seed) for seed in (42, 43)]
    certificate = call_json(capsys, "calibrate", *files)["policy"]["certificate"]
    assert certificate["num_questions"] == 150
    assert certificate["bound"] == "hoeffding_bentkus"


def test_groups_are_certified_together(tmp_path, capsys):
    files = [write_run(tmp_path, dataset=dataset) for dataset in ("sums", "products")]
    certificate = call_json(capsys, "calibrate", *files, "--groups")["policy"]["certificate"]
    assert {name: group["num_questions"] for name, group in certificate["groups"].items()} == {
        "sums": 150,
        "products": 150,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"number": 1}, "1 question but expected at least 2"),
        ({"right": 0.0}, "right on none of 150 questions"),
        ({"right": 0.01}, "Choose a smaller risk"),
    ],
)
def test_traces_that_can_certify_nothing_are_refused(tmp_path, capsys, options, words):
    assert call("calibrate", write_run(tmp_path, **options), "--output", tmp_path / "p.json") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--risk", "0"), "risk = 0.0"),
        (("--risk", "1.5"), "risk = 1.5"),
        (("--risk", "nan"), "risk = nan"),
        (("--confidence", "1"), "confidence = 1.0"),
        (("--pilot", "1"), "pilot = 1.0"),
        (("--policy", "statik"), "Unknown policy"),
        (("--policy", "boundary_confidence:mood=1"), "mood"),
        (("--method", "crc", "--loss", "accuracy"), "Choose 'ltt'"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, option, words):
    assert call("calibrate", write_run(tmp_path), *option) == 2
    assert words in capsys.readouterr().err


def test_an_empty_file_and_missing_labels_are_named(tmp_path, capsys):
    (tmp_path / "boundary_tiny_sums_seed1.jsonl").write_text("")
    assert call("calibrate", tmp_path / "boundary_tiny_sums_seed1.jsonl") == 2
    assert capsys.readouterr().err
    traces = write_run(tmp_path, number=3)
    probed = tmp_path / "probed_tiny_sums_seed42.jsonl"
    rows = [json.loads(line) for line in probed.read_text().splitlines()]
    del rows[1]["is_correct"]
    probed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call("calibrate", traces) == 2
    assert "is_correct" in capsys.readouterr().err


def test_models_are_not_mixed(tmp_path, capsys):
    files = [write_run(tmp_path, model=model) for model in ("tiny", "huge")]
    assert call("calibrate", *files) == 2
    assert "models huge, tiny" in capsys.readouterr().err


def test_drift_tells_by_its_exit_code(tmp_path, capsys):
    traces, file = write_run(tmp_path), tmp_path / "policy.json"
    assert call("calibrate", traces, "--output", file) == 0
    assert call("drift", write_run(tmp_path, seed=1), "--policy", file) == 0
    assert "no evidence" in capsys.readouterr().out
    broken = call_json(capsys, "drift", write_run(tmp_path, seed=2, lost=12), "--policy", file, expected=3)
    assert broken["is_broken"]
    assert broken["realised_risk"] == pytest.approx(0.08)
    shifted = call_json(
        capsys, "drift", write_run(tmp_path, seed=3, length=9000), "--policy", file, expected=4
    )
    assert shifted["is_shifted"]
    assert call("drift", traces, "--policy", file) == 2
    assert "calibrated on" in capsys.readouterr().err


def test_drift_names_another_model(tmp_path, capsys):
    file = tmp_path / "policy.json"
    assert call("calibrate", write_run(tmp_path), "--output", file) == 0
    call("drift", write_run(tmp_path, model="huge"), "--policy", file)
    assert "of model tiny, but these traces are of huge" in capsys.readouterr().err


def test_drift_needs_a_certificate(tmp_path, capsys):
    file = tmp_path / "policy.json"
    assert call("calibrate", write_run(tmp_path), "--output", file) == 0
    row = json.loads(file.read_text())
    del row["certificate"]
    file.write_text(json.dumps(row))
    assert call("drift", write_run(tmp_path, seed=1), "--policy", file) == 2
    assert "no certificate" in capsys.readouterr().err


@pytest.mark.slow
def test_a_recorded_run_of_the_embedded_model_is_calibrated_and_followed(tmp_path, capsys):
    """From questions to traces to a policy to an answer that follows it."""
    questions, traces, file = (tmp_path / name for name in ("q.jsonl", "t.jsonl", "p.json"))
    assert call("questions", "--num", 6, "--seed", 3, "--levels", 1) == 0
    questions.write_text(capsys.readouterr().out)
    assert call("eval", questions, "--trace", traces, "--budget", 5, "--max-new-tokens", 128, "--json") == 0
    capsys.readouterr()
    row = call_json(capsys, "calibrate", traces, "--risk", 0.4, "--confidence", 0.7, "--output", file)
    certificate = row["policy"]["certificate"]
    assert (certificate["num_questions"], certificate["budget"]) == (6, 5)
    replayed = call_json(capsys, "replay", traces, "--policy", file)
    saved = 1 - replayed["net_tokens"] / replayed["baseline_tokens"]
    assert saved == pytest.approx(certificate["tokens_saved"]["share"])
    answer = call_json(capsys, "solve", "What is 7+9?", "--budget", 5, "--policy", file)
    assert answer["answer"] == "16"
    assert answer["stop_reason"] == "certain"
