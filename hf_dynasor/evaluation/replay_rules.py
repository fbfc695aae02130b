"""Replays the stopping rules of `generate` itself on recorded chains, so that what is calibrated is what is loaded.

Rules that wait for the end of a reasoning step are asked at the recorded boundaries, wherever the recorder saw one;
rules that count tokens are asked at the recorded probes. A stopped chain ends with the answer that the probe gave,
as an exit of style `paste` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from hf_dynasor.certaindex.readings import Progress, Reading, StoppingRule
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.traces.judging import judge_depth, read_key
from hf_dynasor.evaluation.traces.records import DepthTrace, RecordedProbe
from hf_dynasor.stopping.rule_table import RULES, build_rule

EXIT_STYLE = "paste"
"""How a calibrated rule ends a thought: the only way whose outcome recorded probes can tell."""


def replay_rule(traces: Iterable[DepthTrace], rule: StoppingRule) -> list[ReplayedQuestion]:
    """One row for each chain, in order.

    Args:
        traces: Recorded chains with their probes.
        rule: When to stop.
    """
    return [_replay(trace, rule) for trace in traces]


def _replay(trace: DepthTrace, rule: StoppingRule) -> ReplayedQuestion:
    state, num_asked = rule.start(), 0
    delimiter = _find_delimiter(rule)
    for probe in trace.probes:
        if rule.reads_text != (probe.place == "boundary"):
            continue
        progress = Progress(num_tokens=probe.position, tail=delimiter)
        if not state.is_due(progress):
            continue
        num_asked += probe.num_tokens
        verdict = state.observe(_read(probe, progress))
        if verdict.is_stop:
            return _end(trace, probe.position + num_asked, probe, verdict.reason)
    return _end(trace, trace.num_tokens + num_asked, None, "the chain ended")


def _read(probe: RecordedProbe, progress: Progress) -> Reading:
    logprobs = probe.logprobs
    if not logprobs and probe.confidence:
        logprobs = (math.log(probe.confidence),)
    # Recorded probes keep whether a word of hesitation came, not which.
    text = f"{probe.answer or ''}}}" + (" wait" if probe.is_hesitant else "")
    answer = probe.answer if read_key(probe.answer) is not None else None  # an empty box is no answer
    return Reading(progress=progress, answer=answer, text=text, is_closed=True, logprobs=logprobs)


def _end(
    trace: DepthTrace, num_tokens: int, probe: RecordedProbe | None, explanation: str
) -> ReplayedQuestion:
    answer = probe.answer if probe else trace.answer
    return ReplayedQuestion(
        id=trace.id,
        group=trace.group,
        answer=answer,
        is_correct=judge_depth(trace, answer) if probe else trace.is_correct,
        baseline_is_correct=trace.is_correct,
        net_tokens=num_tokens,
        baseline_tokens=trace.num_tokens,
        sequential_tokens=num_tokens,  # one chain: an answer that is asked for holds it up
        baseline_sequential_tokens=trace.num_tokens,
        is_early=probe is not None,
        stopped_at=probe.position if probe else trace.num_tokens,
        explanation=explanation,
    )


def _find_delimiter(rule: Any) -> str:
    """The text that each recorded boundary stands for; of a combination, that of its parts together."""
    parts = getattr(rule, "rules", ())
    return str(getattr(rule, "delimiter", "")) or "".join(_find_delimiter(part) for part in parts)


__all__ = ["EXIT_STYLE", "RULES", "build_rule", "replay_rule"]
