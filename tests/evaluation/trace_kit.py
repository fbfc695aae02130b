"""Small recorded runs for tests: builders of traces, and writers of their files."""

import json
from pathlib import Path

from hf_dynasor.evaluation.traces import DepthTrace, RecordedBranch, RecordedProbe, WidthDepthTrace

SHARED = Path(__file__).parents[3] / "shared" / "data" / "traces"


def make_chain(*probes, num_tokens=1000, answer="9", is_correct=True, cap=None, id="q-0", reference="9"):
    return DepthTrace(
        id=id,
        run="run",
        group="q",
        reference=reference,
        num_tokens=num_tokens,
        is_finished=True,
        answer=answer,
        is_correct=is_correct,
        probes=tuple(probes),
        cap=cap,
    )


def at_boundary(position, answer, confidence=0.9, num_tokens=5):
    return RecordedProbe(
        position=position, answer=answer, num_tokens=num_tokens, place="boundary", confidence=confidence
    )


def at_interval(position, answer, num_tokens=7, is_hesitant=False):
    return RecordedProbe(
        position=position, answer=answer, num_tokens=num_tokens, place="interval", is_hesitant=is_hesitant
    )


def make_branch(num_tokens, answer, *probes, interval=100):
    return RecordedBranch(
        positions=tuple(interval * place for place in range(1, len(probes) + 1)),
        probes=probes,
        num_tokens=num_tokens,
        answer=answer,
    )


def make_bundle(*branches, reference="9", interval=100, id="q-0"):
    return WidthDepthTrace(id=id, group="q", reference=reference, interval=interval, branches=branches)


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def probed_row(id="q-0", **changes):
    row = {
        "id": id,
        "question": "?",
        "answer": "9",
        "num_tokens": 200,
        "finish_reason": "stop",
        "final_answer": "9",
        "is_correct": True,
        "probes": [[64, "9", True, 4], [128, "8", False, 5]],
    }
    return row | changes


def trial_row(id="q-0", **changes):
    trial = {
        "position": 100,
        "answer": "9",
        "confidence": 0.99,
        "num_tokens": 3,
        "trigger": "wait",
        "closes_think": True,
        "logprobs": [-0.1, 0.0, -0.2],
    }
    return {"id": id, "trials": [trial | changes]}
