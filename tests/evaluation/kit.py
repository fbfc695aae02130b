"""Recorded runs for tests: small ones on a scripted engine, real ones on the embedded reasoner."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from hf_dynasor.core import FinishReason
from hf_dynasor.evaluation import Question, evaluate
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import Reply, ScriptedEngine


def record(questions, recipe, engine):
    """Run to the full budget; the traces, by the file that was written."""
    recording, file = RecordingEngine(engine), io.StringIO()
    even = replace(recipe, policy="even")
    evaluate(questions, even, recording, on_result=TraceWriter(file, recording, even))
    rows = [ProgramTrace.from_dict(json.loads(line)) for line in file.getvalue().splitlines()]
    return sorted(rows, key=lambda trace: [question.id for question in questions].index(trace.id))


def script(votes_by_question):
    """An engine whose i-th sample of question `qN` states the i-th letter of its votes.

    `?` states nothing, `!` fails, `~` is cut off before its answer; tokens differ from sample to sample.
    """

    def reply(request):
        question = int(request.key.program_id.partition("#")[0][1:])
        index = int(request.key.request_id.removeprefix("sample-"))
        vote = votes_by_question[question][index]
        if vote == "!":
            return Reply(num_tokens=3, finish_reason=FinishReason.FAILED, error="out of memory")
        if vote == "~":
            return Reply(text="So far \\boxed{", num_tokens=9, finish_reason=FinishReason.LENGTH)
        text = "I do not know." if vote == "?" else f"So \\boxed{{{vote}}}."
        return Reply(text=text, num_tokens=5 + (index * 7 + question) % 11)

    return ScriptedEngine(reply)


def record_votes(*votes_by_question, reference="1"):
    """Traces of scripted questions whose right answer is `1`."""
    questions = [
        Question(id=f"q{number}", question=f"Question {number}?", answer=reference)
        for number in range(len(votes_by_question))
    ]
    recipe = Recipe(budget=len(votes_by_question[0]), seed=None)
    return record(questions, recipe, script(votes_by_question))
