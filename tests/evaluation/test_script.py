"""Runs of the evaluation script: totals, resuming, several processes, traces; on a scripted engine."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from hf_dynasor.errors import ConfigurationError, EngineError, InputError
from hf_dynasor.evaluation.trace_sets import open_traces, replay
from hf_dynasor.testing import ScriptedEngine
from tests.evaluation.script_kit import Alone, Dying, answer, evaluate, read, write_questions


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "questions.jsonl", 6)


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
