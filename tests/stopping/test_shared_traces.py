"""The default rule on boundary trials of real models: what it saves, and that it loses nothing to speak of."""

import json
from pathlib import Path

import pytest

from hf_dynasor.answers import is_correct
from hf_dynasor.stopping import DEFAULT_RULE, Progress, Reading

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"


def read_lines(name):
    path = TRACES / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("needs ../shared/data/traces")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exit_of(trials, rule):
    """The trial at which the rule stops, and the probe tokens spent by then. A trial stands at the end of a step."""
    state, spent = rule.start(), 0
    for trial in trials:
        place = Progress(num_tokens=trial["position"], tail=rule.delimiter)
        if not state.is_due(place):
            continue
        spent += trial["num_tokens"]
        reading = Reading(
            progress=place, answer=trial["answer"] or None, logprobs=tuple(trial["logprobs"]), is_closed=True
        )
        if state.observe(reading).is_stop:
            return trial, spent
    return None, spent


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", ["r1_qwen_7b_math500_seed42", "r1_qwen_7b_math500_seed43", "qwen3_8b_math500_seed42"]
)
def test_the_default_saves_a_third_and_loses_at_most_half_a_point(run):
    runs = {row["id"]: row for row in read_lines(f"probed_{run}")}
    rows = read_lines(f"boundary_{run}")
    num_tokens = num_right = spent = full_tokens = full_right = 0
    for row in rows:
        full = runs[row["id"]]
        trial, num_probe_tokens = exit_of(row["trials"], DEFAULT_RULE)
        full_tokens += full["num_tokens"]
        full_right += full["is_correct"]
        spent += num_probe_tokens
        num_tokens += trial["position"] if trial else full["num_tokens"]
        num_right += is_correct(trial["answer"], str(full["answer"])) if trial else full["is_correct"]
    assert len(rows) >= 400
    assert (full_right - num_right) / len(rows) <= 0.005
    assert 1 - (num_tokens + spent) / full_tokens >= 0.33
