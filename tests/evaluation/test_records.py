"""Traces: what is written, that it comes back, and what a broken file loses."""

import io
import json

import pytest

from hf_dynasor.core import FinishReason, Generate, Prompt, RequestKey, SamplingParams, TokenIds
from hf_dynasor.errors import ConfigurationError, EngineError, InputError
from hf_dynasor.evaluation import Question, evaluate
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.evaluation.records import (
    SCHEMA,
    ProgramTrace,
    fingerprint,
    read_program_traces,
    write_recipe,
)
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import ScriptedEngine
from tests.evaluation.kit import record_votes


@pytest.fixture
def trace():
    return record_votes("11?2!~")[0]


def test_a_trace_names_every_completion_with_its_place_answer_and_tokens(trace):
    assert [item.request_id for item in trace.completions] == [f"sample-{n}" for n in range(6)]
    assert [path.answer for path in trace.paths] == ["1", "1", None, "2", None]
    assert [path.key for path in trace.paths] == [("number", "1")] * 2 + [None, ("number", "2"), None]
    assert [path.is_correct for path in trace.paths] == [True, True, False, False, False]
    assert [path.unit for path in trace.paths] == [0, 1, 2, 3, 5]
    assert trace.completions[4].finish_reason is FinishReason.FAILED
    assert trace.completions[4].error == "out of memory"
    assert [item.usage.net_tokens for item in trace.completions] == [5, 12, 8, 15, 3, 9]
    assert (trace.answer, trace.is_correct, trace.budget, trace.program) == ("1", True, 6, "self_consistency")


def test_a_trace_comes_back_as_it_was_written(trace):
    again = ProgramTrace.from_dict(json.loads(json.dumps(trace.to_dict())))
    assert again == trace


def test_log_probabilities_and_offsets_come_back_bit_for_bit():
    from hf_dynasor.evaluation.records import RecordedCompletion

    record = RecordedCompletion(
        request_id="sample-0",
        kind="generate",
        prompt="0" * 16,
        text="ab",
        token_ids=(1, 2),
        finish_reason=FinishReason.EOS,
        usage=ProgramTrace.from_dict(record_votes("11")[0].to_dict()).completions[0].usage,
        logprobs=(-0.1 - 1e-17, -1 / 3),
        offsets=(0, 1),
    )
    assert RecordedCompletion.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_the_recipe_of_a_trace_leaves_the_policy_out():
    row = write_recipe(Recipe(policy="static", detect_at=3, temperature=0.5))
    assert row["temperature"] == 0.5
    assert not {"policy", "detect_at", "thresholds", "preset", "max_tokens"} & set(row)


def test_prompts_have_the_same_fingerprint_in_every_process_and_different_ones_differ():
    prompts = [
        Prompt.plain("a"),
        Prompt.plain("b"),
        Prompt.chat("a"),
        Prompt.chat("a", enable_thinking=True),
        Prompt.chat("a") + "b",
        Prompt.chat("a") + TokenIds(ids=(98,)),
    ]
    assert len({fingerprint(prompt) for prompt in prompts}) == len(prompts)
    assert fingerprint(Prompt.plain("a")) == "0798f1ceea91e418"


def test_a_broken_last_line_is_reported_and_left_out(tmp_path, trace):
    path = tmp_path / "traces.jsonl"
    line = json.dumps(trace.to_dict())
    path.write_text(line + "\n" + line[: len(line) // 2])
    file = read_program_traces([path])
    assert file.traces == (trace,)
    assert [broken.number for broken in file.broken_lines] == [2]
    assert "not JSON" in file.broken_lines[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": "other/1"}, "schema is 'other/1'"),
        ({"paths": None}, "no hf_dynasor.trace/1 line"),
        ({"surprise": 1}, "no hf_dynasor.trace/1 line"),
        ({"reference": ""}, "no label"),
        ({"error": "it failed"}, "it failed"),
        ({"completions": [{"request_id": "x"}]}, "no hf_dynasor.trace/1 line"),
    ],
)
def test_a_line_that_is_no_trace_says_why(tmp_path, trace, change, reason):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(trace.to_dict() | change) + "\n")
    with pytest.raises(InputError, match=reason):
        read_program_traces([path])


def test_an_empty_or_missing_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="Found no trace"):
        read_program_traces([tmp_path / "empty.jsonl"])
    with pytest.raises(InputError, match="Cannot read"):
        read_program_traces([tmp_path / "missing.jsonl"])


def test_each_question_is_written_as_it_ends(tmp_path):
    """A crash in the middle costs what was in flight, and nothing that had ended."""
    calls = []

    def reply(request):
        calls.append(request)
        if len(calls) > 6:
            raise EngineError("the machine is gone")
        from hf_dynasor.testing import Reply

        return Reply(text="\\boxed{1}")

    path = tmp_path / "traces.jsonl"
    questions = [Question(id=f"q{n}", question=f"{n}?", answer="1") for n in range(4)]
    recipe = Recipe(policy="even", budget=2)
    with path.open("w") as file:
        engine = RecordingEngine(ScriptedEngine(reply))
        with pytest.raises(EngineError):
            evaluate(questions, recipe, engine, max_active=1, on_result=TraceWriter(file, engine, recipe))
        assert len(read_program_traces([path]).traces) == 3


def test_a_question_that_ended_with_an_error_is_a_line_that_says_so(tmp_path):
    path = tmp_path / "traces.jsonl"
    questions = [Question(id=f"q{n}", question=f"{n}?", answer="1") for n in range(2)]
    recipe = Recipe(policy="even", budget=2)

    def reply(request):
        from hf_dynasor.testing import Reply

        if request.key.program_id.startswith("q0"):
            return Reply(finish_reason=FinishReason.FAILED, error="lost")
        return Reply(text="\\boxed{1}")

    with path.open("w") as file:
        engine = RecordingEngine(ScriptedEngine(reply))
        evaluate(questions, recipe, engine, on_result=TraceWriter(file, engine, recipe))
    found = read_program_traces([path])
    assert [trace.id for trace in found.traces] == ["q1"]
    assert "lost" in found.broken_lines[0].reason


def test_a_recipe_that_may_stop_early_cannot_be_recorded():
    engine = RecordingEngine(ScriptedEngine(["1"]))
    with pytest.raises(ConfigurationError, match="Expected 'even'"):
        TraceWriter(io.StringIO(), engine, Recipe())


def test_the_recording_engine_hands_everything_over():
    inner = ScriptedEngine(["a", "b"])
    engine = RecordingEngine(inner)
    assert (engine.name, engine.abilities, engine.progress) == (inner.name, inner.abilities, 0)
    events = []
    key = RequestKey(program_id="p", request_id="r")
    engine.submit([Generate(key=key, prompt=Prompt.plain("x"), sampling=SamplingParams())], events.append)
    engine.cancel([key])
    assert [event.text for event in events] == ["a"]
    assert [item.text for item in engine.take("p")] == ["a"]
    assert engine.take("p") == ()
    engine.close()
    with pytest.raises(EngineError):
        engine.check_health()


def test_the_schema_is_the_documented_one():
    assert SCHEMA == "hf_dynasor.trace/1"
