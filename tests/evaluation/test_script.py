"""The evaluation script: arguments, resuming, several processes, traces, reports; on a scripted engine and the real one."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.errors import ConfigurationError, EngineError, InputError
from hf_dynasor.evaluation.run_folder import read_run
from hf_dynasor.evaluation.script import run_script
from hf_dynasor.evaluation.script_arguments import parse_script_arguments
from hf_dynasor.evaluation.trace_sets import open_traces, replay
from hf_dynasor.testing import Reply, ScriptedEngine

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "run_reasoning_eval.py"


class Alone:
    """One process among so many, for runs in this process."""

    def __init__(self, index=0, count=1):
        self.process_index, self.num_processes, self.device = index, count, "cpu"
        self.is_main_process = index == 0

    def wait_for_everyone(self):
        pass

    @contextmanager
    def split_between_processes(self, inputs):
        yield inputs


def write_questions(path, num):
    rows = [
        {"id": f"q{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n), "level": n % 2}
        for n in range(num)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "questions.jsonl", 6)


def answer(request):
    """Right but for q1, and a little different from sample to sample."""
    number = int(request.key.program_id.partition("#")[0][1:])
    index = int(request.key.request_id.removeprefix("sample-"))
    return Reply(text=f"\\boxed{{{2 * number if number != 1 else 99 + index % 2}}}", num_tokens=10 + index)


class Dying(ScriptedEngine):
    """Dies after so many requests, as a machine does."""

    def __init__(self, num):
        super().__init__(answer)
        self.num = num

    def submit(self, requests, sink):
        self.num -= len(requests)
        if self.num < 0:
            raise EngineError("out of power")
        super().submit(requests, sink)


def evaluate(questions, folder, *options, engine=None, processes=None):
    arguments = parse_script_arguments(
        ["--data_file", str(questions), "--output_dir", str(folder), "--task", "plain", *map(str, options)]
    )
    engine = engine or ScriptedEngine(answer)
    return run_script(arguments, lambda device: engine, processes=processes or Alone())


def read(folder):
    """What two equal runs share: all but the time, and what happened to be in a cache."""
    results = json.loads((Path(folder) / "all_results.json").read_text())
    rows = [json.loads(line) for line in (Path(folder) / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        del row["usage"]["cached"]
    return {key: value for key, value in results.items() if key not in ("seconds", "cached_tokens")}, rows


def test_a_run_is_written_with_its_settings_and_totals(questions, tmp_path):
    run = evaluate(questions, tmp_path / "run", "--seeds", 0, 1)
    assert (run.totals.num_questions, run.totals.num_predictions) == (6, 12)
    assert run.totals.accuracy == pytest.approx(5 / 6, abs=1e-6)
    assert [row.key for row in run.predictions] == [(f"q{n}", seed) for seed in (0, 1) for n in range(6)]
    assert run.info.engine == "scripted"
    assert run.info.settings["temperature"] == 0.7
    assert run.arguments["data_file"] == str(questions)
    assert {"python", "torch", "transformers", "hf-dynasor"} <= set(run.info.versions)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "all_results.json",
        "args.json",
        "predictions.jsonl",
    ]


@pytest.mark.parametrize(("num", "is_shorter"), [(0, False), (7, False), (23, True)])
def test_an_interrupted_run_goes_on_to_the_same_result(questions, tmp_path, num, is_shorter):
    evaluate(questions, tmp_path / "whole")
    with pytest.raises(EngineError):
        evaluate(questions, tmp_path / "run", "--max_active", 2, engine=Dying(num))
    assert not (tmp_path / "run" / "all_results.json").exists()
    rest = ScriptedEngine(answer)
    evaluate(questions, tmp_path / "run", engine=rest)
    assert read(tmp_path / "run") == read(tmp_path / "whole")
    assert (len(rest.submitted) < 5 * 5 + 20) == is_shorter  # what had ended was not asked again


def test_half_a_line_of_a_crash_is_asked_again(questions, tmp_path):
    evaluate(questions, tmp_path / "whole")
    with pytest.raises(EngineError):
        evaluate(questions, tmp_path / "run", "--max_active", 1, engine=Dying(12))
    (journal,) = (tmp_path / "run" / "partial").glob("rank-*.jsonl")
    whole = journal.read_text()
    journal.write_text(whole[:-40])
    evaluate(questions, tmp_path / "run")
    assert read(tmp_path / "run") == read(tmp_path / "whole")


def test_a_run_that_is_done_is_not_run_again_unless_it_is_overwritten(questions, tmp_path):
    evaluate(questions, tmp_path / "run")
    evaluate(questions, tmp_path / "run", engine=Dying(0))
    with pytest.raises(EngineError):
        evaluate(questions, tmp_path / "run", "--overwrite_output_dir", engine=Dying(0))


def test_overwriting_leaves_other_files_alone(questions, tmp_path):
    evaluate(questions, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    evaluate(questions, tmp_path / "run", "--overwrite_output_dir", "--budget", 5)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("is_done", [True, False])
def test_other_settings_in_the_same_folder_are_refused_by_name(questions, tmp_path, is_done):
    if is_done:
        evaluate(questions, tmp_path / "run")
    else:
        with pytest.raises(EngineError):
            evaluate(questions, tmp_path / "run", engine=Dying(9))
    with pytest.raises(InputError, match=r"settings.temperature was 0.7, is 0.5.*--overwrite_output_dir"):
        evaluate(questions, tmp_path / "run", "--temperature", 0.5)
    write_questions(questions, 5)
    with pytest.raises(InputError, match="questions_digest"):
        evaluate(questions, tmp_path / "run")


def test_two_processes_share_the_questions_and_come_to_the_same(questions, tmp_path):
    """One after the other in this process; `accelerate launch` is tried on the real engine."""
    evaluate(questions, tmp_path / "one", "--seeds", 0, 1)

    class Two(Alone):
        @contextmanager
        def split_between_processes(self, inputs):
            yield inputs[self.process_index :: 2]

    with pytest.raises(InputError, match="lacks 6 of 12"):
        evaluate(questions, tmp_path / "two", "--seeds", 0, 1, processes=Two(0, 2))
    arguments = ("--seeds", 0, 1)
    with pytest.raises(
        InputError, match="Cannot read"
    ):  # the second process waits for the first one's files in vain
        evaluate(questions, tmp_path / "two", *arguments, processes=Two(1, 2))
    evaluate(questions, tmp_path / "two", *arguments, engine=Dying(0))
    assert read(tmp_path / "two") == read(tmp_path / "one")


def test_a_trace_can_be_replayed(questions, tmp_path):
    run = evaluate(questions, tmp_path / "run", "--record_trace", "--budget", 10)
    assert run.info.policy == "even"
    rows = replay(open_traces([run.trace_path]), "static")
    assert [row.baseline_is_correct for row in rows] == [row.is_right for row in run.predictions]
    assert sum(row.net_tokens for row in rows) < run.totals.net_tokens


@pytest.mark.parametrize("options", [("--seeds", 0, 1), ("--policy", "static")])
def test_a_trace_needs_one_seed_and_the_full_budget(questions, tmp_path, options):
    with pytest.raises(ConfigurationError):
        evaluate(questions, tmp_path / "run", "--record_trace", *options)


def test_a_question_that_ends_with_an_error_is_wrong_and_told(questions, tmp_path):
    def script(request):
        if request.key.program_id.startswith("q0#"):
            raise ConfigurationError("too long")
        return answer(request)

    run = evaluate(questions, tmp_path / "run", engine=ScriptedEngine(script))
    assert (run.totals.num_errors, run.predictions[0].error) == (1, "too long")
    assert run.totals.accuracy == pytest.approx(4 / 6, abs=1e-6)


def test_where_nothing_can_be_solved_it_is_an_error_and_no_run(questions, tmp_path):
    def script(request):
        raise ConfigurationError("no chat template")

    with pytest.raises(InputError, match="no chat template"):
        evaluate(questions, tmp_path / "run", engine=ScriptedEngine(script))
    assert not (tmp_path / "run" / "all_results.json").exists()


def test_only_so_many_questions_are_asked(questions, tmp_path):
    assert evaluate(questions, tmp_path / "run", "--max_eval_samples", 2).totals.num_questions == 2


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_other_files_hold_the_same_questions(questions, tmp_path, ending):
    import pandas

    table = pandas.read_json(questions, lines=True)
    path = tmp_path / f"other.{ending}"
    {"csv": lambda: table.to_csv(path, index=False), "parquet": lambda: table.to_parquet(path),
     "json": lambda: table.to_json(path, orient="records")}[ending]()  # fmt: skip
    run = evaluate(path, tmp_path / "run", "--budget", 5)
    assert run.totals.accuracy == pytest.approx(5 / 6, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--program", "magic"), "Unknown program 'magic'"),
        (("--policy", "magic"), "Unknown policy 'magic'"),
        (("--policy", "static:entropy"), "expected name=value"),
        (("--program_options", "[1]"), "expected a JSON object"),
        (("--program_options", "{"), "not JSON"),
        (("--program_options", '{"magic": 1}'), "'magic', which self_consistency does not read"),
        (("--max_eval_samples", 0), "at least 1"),
        (("--seeds", 1, 1), "each of them once"),
        (("--report_to", "magic"), "expected one of tensorboard"),
        (("--max_active", 0), "more than 0"),
        (("--dataset_name", "x"), "the one or the other"),
        (("--magic", 1), "--magic"),
    ],
)
def test_a_mistake_is_named_before_any_model_is_loaded(questions, tmp_path, options, said):
    with pytest.raises((ConfigurationError, InputError)) as caught:
        evaluate(questions, tmp_path / "run", *options, engine=None)
    assert said in str(caught.value)


def test_a_row_that_cannot_be_asked_is_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question": "2+2?", "answer": "4"}\n{"question": "", "answer": "4"}\n')
    with pytest.raises(InputError, match="Row 1 has no field 'question'"):
        evaluate(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "said"), [("no.jsonl", "no such file"), ("no.txt", "expected one that ends with")]
)
def test_a_file_that_is_none_is_refused(tmp_path, name, said):
    with pytest.raises((ConfigurationError, InputError), match=said):
        evaluate(tmp_path / name, tmp_path / "run")


def test_a_hub_name_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    arguments = parse_script_arguments(["--task", "gsm8k", "--output_dir", str(tmp_path)])
    with pytest.raises(InputError, match=r"Cannot load openai/gsm8k: .+"):
        run_script(arguments, lambda device: ScriptedEngine(answer), processes=Alone())


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_arguments_come_from_a_file_and_flags_overrule_it(tmp_path, ending):
    path = tmp_path / f"arguments.{ending}"
    row = {"output_dir": "runs/a", "budget": 7, "seeds": [1, 2], "program_options": {"stop_decided": True}}
    path.write_text(json.dumps(row))  # JSON is YAML
    arguments = parse_script_arguments([str(path), "--budget", "9"])
    assert (arguments.program.budget, arguments.program.seeds, arguments.run.output_dir) == (
        9,
        [1, 2],
        "runs/a",
    )
    assert json.loads(arguments.program.program_options) == {"stop_decided": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [("bugdet: 3", "unknown argument 'bugdet'"), ("[1]", "list"), ("a: [", "Cannot read the arguments")],
)
def test_a_mistake_in_an_argument_file_is_named(tmp_path, text, said):
    path = tmp_path / "arguments.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        parse_script_arguments([str(path)])


def test_a_run_without_a_folder_is_refused():
    with pytest.raises(ConfigurationError, match="--output_dir"):
        parse_script_arguments([])


def test_the_curve_goes_to_tensorboard(questions, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = evaluate(questions, tmp_path / "run", "--report_to", "tensorboard", "--logging_steps", 2)
    steps = []
    for file in (tmp_path / "run").rglob("events.out.*"):
        events = accumulator.EventAccumulator(str(file))
        events.Reload()
        if "accuracy" in events.Tags()["scalars"]:
            steps += [(event.step, event.value) for event in events.Scalars("accuracy")]
    assert [step for step, _ in steps] == [2, 4, 6]
    assert steps[-1][1] == pytest.approx(run.totals.accuracy)


def run_here(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_the_example_runs_on_the_embedded_model_and_prints_the_totals(tmp_path, monkeypatch, capsys):
    path = write_questions(tmp_path / "questions.jsonl", 2)
    options = ("--budget", 2, "--device", "cpu", "--max_new_tokens", 64)
    assert run_here(monkeypatch, "--data_file", path, "--output_dir", tmp_path / "run", *options) == 0
    told = capsys.readouterr().out
    assert f"net_tokens         {read_run(tmp_path / 'run').totals.net_tokens}\n" in told


def test_the_example_says_a_mistake_in_one_line(tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, "--output_dir", tmp_path, "--data_file", "no.jsonl") == 2
    assert capsys.readouterr().err == "run_reasoning_eval: error: Cannot read no.jsonl: no such file.\n"


# The real engine, in processes of their own.


def write_problems(path, num):
    rows = [
        {"id": item.id, "question": item.question, "answer": item.answer, "level": item.level}
        for item in generate_problems(num, seed=11, split="test")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_example(*command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, seconds=240):
    try:
        told, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told[-4000:]
    return told


@pytest.fixture
def command(tmp_path):
    write_problems(tmp_path / "problems.jsonl", 10)
    return [SCRIPT, "--data_file", "problems.jsonl", "--budget", 5, "--max_active", 3, "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_run_of_the_real_engine_resumes_to_the_same_result(command, tmp_path):
    """SIGKILL in the middle of the run. Rounding may differ with the batch: false alarms are rarer than 1 in 1,000."""
    finish(run_example(sys.executable, *command, "--output_dir", "whole", folder=tmp_path))
    killed = run_example(sys.executable, *command, "--output_dir", "again", folder=tmp_path)
    journal = tmp_path / "again" / "partial" / "rank-00000.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 3):
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "again" / "all_results.json").exists()
    assert 3 <= len(journal.read_text().splitlines()) < 10
    finish(run_example(sys.executable, *command, "--output_dir", "again", folder=tmp_path))
    assert read(tmp_path / "again") == read(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_of_accelerate_have_the_totals_of_one(command, tmp_path):
    finish(run_example(sys.executable, *command, "--output_dir", "one", folder=tmp_path))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2]
    finish(run_example(*launch, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
                       *command, "--output_dir", "two", folder=tmp_path))  # fmt: skip
    assert read(tmp_path / "two") == read(tmp_path / "one")
    assert read_run(tmp_path / "two").totals.num_questions == 10
