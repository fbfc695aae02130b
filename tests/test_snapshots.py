"""A program that was written down in the middle ends, in another process, with the answer that it would have had."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import Cancel, Completion, FinishReason, Prompt, SamplingParams, Usage
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.programs import PROGRAMS, SelfConsistency
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.snapshots import completion_from_dict, completion_to_dict
from hf_dynasor.testing import Reply, ScriptedEngine

PROMPT = Prompt.chat("What is 2+2?")


def answer_by_seed(request):
    value = random.Random(f"{request.key.request_id} {request.sampling.seed}").choice([4, 4, 5])
    return Reply(text=f"\\boxed{{{value}}}", num_tokens=1 + value)


def make(**options):
    defaults = {"budget": 8, "sampling": SamplingParams(seed=3)}
    return SelfConsistency(PROMPT, **defaults | options)


def run_for(program, policy, num_completions, script=answer_by_seed):
    """Drive a program by hand and stop in the middle; returns what is in flight then."""
    flow = program.flow(policy)
    waiting = {command.key: command for command in next(flow)}
    for _ in range(num_completions):
        request = next(iter(waiting.values()))
        del waiting[request.key]
        reply = script(request)
        completion = Completion(
            key=request.key,
            text=reply.text,
            finish_reason=FinishReason.EOS,
            usage=Usage(sampled=reply.num_tokens),
        )
        waiting |= {command.key: command for command in flow.send(completion)}
    return waiting


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 7), st.sampled_from([Even(), StaticThreshold(detect_at=3)]), st.integers(0, 99))
def test_a_resumed_program_ends_as_the_whole_run_does(num_completions, policy, seed):
    sampling = SamplingParams(seed=seed)
    whole = run(make(sampling=sampling), ScriptedEngine(answer_by_seed), policy)
    first = make(sampling=sampling)
    run_for(first, policy, min(num_completions, whole.units_spent - 1))
    written = json.dumps(first.snapshot())
    assert (
        run(make(sampling=sampling).resume(json.loads(written)), ScriptedEngine(answer_by_seed), policy)
        == whole
    )


def test_only_what_was_in_flight_is_asked_for_again():
    first = make()
    in_flight = run_for(first, Even(), 5)
    engine = ScriptedEngine(answer_by_seed)
    run(make().resume(first.snapshot()), engine, Even())
    assert [request.key.request_id for request in engine.submitted] == [key.request_id for key in in_flight]


def test_a_finished_program_answers_without_an_engine():
    program = make()
    answer = run(program, ScriptedEngine(answer_by_seed), Even())
    engine = ScriptedEngine([])
    assert run(make().resume(program.snapshot()), engine, Even()) == answer
    assert engine.submitted == []


def test_a_resumed_program_can_be_written_down_again_at_once_and_later():
    first = make()
    run_for(first, Even(), 4)
    snapshot = first.snapshot()
    second = make().resume(snapshot)
    assert second.snapshot() == snapshot
    run_for(second, Even(), 2)
    assert len(second.snapshot()["completions"]) == 6


class TakesTheFirst(SelfConsistency):
    """Cancels the rest of a grant as soon as one sample has ended, and waits for the others' ends."""

    name = "takes_the_first"

    def execute(self, grant):
        completion = yield tuple(self._make_request(index) for index in range(grant))
        self._observe(completion)
        keys = [self.key(f"sample-{index}") for index in range(grant)]
        commands = (Cancel(keys=tuple(key for key in keys if key != completion.key)),)
        for _ in range(grant - 1):
            completion = yield commands
            commands = ()

    def count_spent(self, grant):
        return grant


class SpendsNothing(TakesTheFirst):
    """A program that forgets to say what it used."""

    def count_spent(self, grant):
        return 0


def test_a_program_that_spends_nothing_and_does_not_end_is_an_error_not_a_loop():
    """Regression: a subclass that samples by itself was granted the same budget for ever."""
    with pytest.raises(ProgramError, match="count_spent"):
        run(SpendsNothing(PROMPT, budget=1), ScriptedEngine(answer_by_seed), Even())


def test_what_was_cancelled_is_not_asked_for_again():
    first = TakesTheFirst(PROMPT, budget=4)
    run_for_one = first.flow(Even())
    requests = next(run_for_one)
    text = "\\boxed{4}"
    run_for_one.send(Completion(key=requests[0].key, text=text, finish_reason=FinishReason.EOS))
    engine = ScriptedEngine([])
    answer = run(TakesTheFirst(PROMPT, budget=4).resume(first.snapshot()), engine, Even())
    assert (answer.text, engine.submitted) == ("4", [])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"budget": 9}, r"budget = 8 but this one has budget = 9"),
        ({"answer_format": "number"}, r"answer_format = 'auto' but this one has answer_format = 'number'"),
        ({"sampling": SamplingParams(seed=4)}, r"sampling = .*seed=3"),
    ],
)
def test_a_program_with_other_settings_refuses_it(options, named):
    with pytest.raises(ConfigurationError, match=named):
        make(**options).resume(make().snapshot())


def test_another_question_another_program_and_another_policy_refuse_it():
    first = make()
    run_for(first, Even(), 2)
    snapshot = first.snapshot()
    with pytest.raises(ConfigurationError, match="prompt = "):
        SelfConsistency(Prompt.chat("2+3?"), budget=8, sampling=SamplingParams(seed=3)).resume(snapshot)
    with pytest.raises(ConfigurationError, match="program = self_consistency"):
        TakesTheFirst(PROMPT, budget=8, sampling=SamplingParams(seed=3)).resume(snapshot)
    with pytest.raises(ConfigurationError, match="policy = Even"):
        run(make().resume(snapshot), ScriptedEngine(answer_by_seed), StaticThreshold())


def test_a_label_may_differ():
    first = make(label="here")
    run_for(first, Even(), 2)
    assert (
        run(make(label="there").resume(first.snapshot()), ScriptedEngine(answer_by_seed), Even()).text == "4"
    )


@pytest.mark.parametrize("snapshot", [{}, {"schema": 1}, [], None])
def test_what_is_no_snapshot_is_refused(snapshot):
    with pytest.raises(ConfigurationError, match="expected the fields"):
        make().resume(snapshot)


def test_a_snapshot_of_another_schema_is_refused():
    with pytest.raises(ConfigurationError, match="schema 99"):
        make().resume({**make().snapshot(), "schema": 99})


def test_a_journal_that_does_not_fit_is_an_error_not_a_wrong_answer():
    first = make()
    run_for(first, Even(), 2)
    snapshot = first.snapshot()
    snapshot["completions"][1]["request_id"] = "sample-77"
    with pytest.raises(ProgramError, match="'sample-77', which this program has not asked for"):
        run(make().resume(snapshot), ScriptedEngine(answer_by_seed), Even())


def test_a_program_that_runs_cannot_be_resumed():
    program = make()
    run(program, ScriptedEngine(answer_by_seed), Even())
    with pytest.raises(ProgramError, match="resume a new one"):
        program.resume(make().snapshot())


@given(
    st.lists(st.tuples(st.integers(0, 511), st.floats(-50, 0), st.integers(0, 30)), max_size=5),
    st.text(max_size=20),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 1)),
)
@settings(max_examples=50, deadline=None)
def test_a_completion_survives_json(tokens, text, wants_logprobs, score):
    completion = Completion(
        key=make().key("a"),
        text=text,
        token_ids=tuple(token for token, _, _ in tokens),
        logprobs=tuple(logprob for _, logprob, _ in tokens) if wants_logprobs else None,
        offsets=tuple(offset for _, _, offset in tokens) if wants_logprobs else None,
        finish_reason=FinishReason.STOP,
        usage=Usage(prompt=9, sampled=len(tokens)),
        score=score,
    )
    row = json.loads(json.dumps(completion_to_dict(completion)))
    assert completion_from_dict(row, completion.key.program_id) == completion


RESUME = """
import json, sys
from hf_dynasor import Recipe, make_engine, run
program, policy = Recipe(**json.loads(sys.argv[2])).build("What is 83*47-159?")
program.resume(json.load(open(sys.argv[1])))
with make_engine("embedded", engine="generate") as engine:
    answer = run(program, engine, policy)
print(json.dumps(answer.to_dict()))
"""


def resume_in_another_process(path, options):
    command = [sys.executable, "-c", RESUME, str(path), json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class PowerCut(BaseException):
    """Ends a run without warning."""


def write_down_in_the_middle(recipe, path, engine, num_completions):
    """Run with a real engine, and write the program down after so many completions; the run is cut off there."""
    program, policy = recipe.build("What is 83*47-159?")
    seen = []

    class Counting(type(program)):
        def _account(self, completion, depth_at_start):
            super()._account(completion, depth_at_start)
            seen.append(completion)
            if len(seen) == num_completions:
                path.write_text(json.dumps(program.snapshot()))
                raise PowerCut

    program.__class__ = Counting
    with pytest.raises(PowerCut):
        run(program, engine, policy)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_another_process_ends_with_the_same_answer_on_the_embedded_model(name, tmp_path: Path):
    from hf_dynasor import Recipe, make_engine

    options = {"program": name, "budget": 6, "seed": 5, "temperature": 1.0, "policy": "even"}
    if name in ("chain_of_thought", "chain_consistency"):
        options |= {"enable_thinking": True, "program_options": {"interval": 16, "suffix": "short"}}
    if name == "chain_of_thought":
        options["budget"] = 256
    recipe = Recipe(**options)
    with make_engine("embedded", engine="generate") as engine:
        program, policy = recipe.build("What is 83*47-159?")
        whole = run(program, engine, policy)
        write_down_in_the_middle(recipe, tmp_path / "state.json", engine, 4)
    resumed = resume_in_another_process(tmp_path / "state.json", options)
    expected = whole.to_dict()
    for row in (resumed, expected):  # an engine may compute prompts of a smaller batch once more
        row.pop("usage")
        if (
            name == "chain_consistency"
        ):  # its chains' requests come and go alone: what waited for what may differ
            for part in (row, *row["grants"]):
                part.pop("sequential_tokens")
    assert resumed == expected
