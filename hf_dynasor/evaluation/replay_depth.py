"""Replays policies over recorded chains of thought, as they would have acted while the chain was written.

A policy sees only what stood before the place where it decides. A chain that stops at a place costs the tokens
before it, every answer that the policy asked for until then, and nothing after. A chain that is not stopped costs
its full length and those answers, and ends as the record says, finished or cut off, exactly like the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.traces.judging import judge_depth, read_key
from hf_dynasor.evaluation.traces.records import DepthTrace, RecordedProbe
from hf_dynasor.scheduler.depth import DepthPlace, DepthPolicy, DepthReading, DepthVerdict


def replay_depth(traces: Iterable[DepthTrace], policy: DepthPolicy) -> list[ReplayedQuestion]:
    """One row for each chain, in order.

    Args:
        traces: Recorded chains.
        policy: When to stop.

    Returns:
        Tokens and answers of the policy beside those of the full run without probes.
    """
    return [_replay(trace, policy) for trace in traces]


def cut_chain(trace: DepthTrace, budget: int) -> DepthTrace:
    """The chain as a run with a smaller cap would have left it.

    A chain that is longer ends at the budget with the last answer that was recorded before it, whose tokens count;
    one that says nothing until then has no answer. So the baseline is asked too, and never gains by stopping late.

    Args:
        trace: A recorded chain.
        budget: Most tokens that it may have, at least 1.
    """
    if trace.num_tokens <= budget:
        return replace(trace, cap=budget)
    probes = tuple(probe for probe in trace.probes if probe.position < budget)
    last = next((probe for probe in reversed(probes) if read_key(probe.answer) is not None), None)
    return replace(
        trace,
        probes=probes,
        cap=budget,
        num_tokens=budget + (last.num_tokens if last else 0),
        is_finished=False,
        answer=last.answer if last else None,
        is_correct=last is not None and judge_depth(trace, last.answer),
    )


def _replay(trace: DepthTrace, policy: DepthPolicy) -> ReplayedQuestion:
    state = policy.start(cap=trace.cap)
    num_asked = 0
    for probe in trace.probes:
        place = DepthPlace(position=probe.position, is_boundary=probe.place == "boundary")
        if not state.wants(place):
            continue
        num_asked += probe.num_tokens
        verdict = state.observe(_read(probe, place))
        if verdict.is_stop:
            return _end(trace, probe.position, num_asked, verdict)
    return _end(trace, trace.num_tokens, num_asked, None)


def _read(probe: RecordedProbe, place: DepthPlace) -> DepthReading:
    return DepthReading(
        place=place,
        answer=probe.answer,
        key=read_key(probe.answer),
        confidence=probe.confidence,
        num_tokens=probe.num_tokens,
        is_hesitant=probe.is_hesitant,
    )


def _end(trace: DepthTrace, position: int, num_asked: int, verdict: DepthVerdict | None) -> ReplayedQuestion:
    stopped = verdict.reading if verdict else None
    answer = (stopped.answer if stopped else None) if verdict else trace.answer
    return ReplayedQuestion(
        id=trace.id,
        group=trace.group,
        answer=answer,
        is_correct=judge_depth(trace, answer) if verdict else trace.is_correct,
        baseline_is_correct=trace.is_correct,
        net_tokens=position + num_asked,
        baseline_tokens=trace.num_tokens,
        # One chain: an answer that is asked for holds the chain up.
        sequential_tokens=position + num_asked,
        baseline_sequential_tokens=trace.num_tokens,
        is_early=verdict is not None,
        stopped_at=position,
        explanation=verdict.explanation if verdict else "the chain ended",
    )
