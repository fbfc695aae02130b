"""Replays an allocation policy on recorded programs: what it would have spent, and what it would have answered.

The program and the policy are the real ones; an engine that reads from the record takes the place of the model.
So a replayed decision is the decision that would have been taken online, by construction.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from hf_dynasor.core import Completion, FinishReason, Generate, Request, RequestKey
from hf_dynasor.drivers import run
from hf_dynasor.engine import Ability, Sink
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.recording import grade_answer
from hf_dynasor.evaluation.records import (
    NOT_SAMPLING,
    ProgramTrace,
    RecordedCompletion,
    fingerprint,
    name_kind,
)
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.samples import read_samples, replay_samples
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even


class ReplayEngine:
    """Answers every request from a record, by its name within its program.

    Args:
        completions: What each request was sent when it was recorded.
        last: Of a text that was generated piece by piece, the request of its last piece.
        order: Names of requests in the order in which their completions came. Programs whose chains stop together
            act by who is first; a replay of the very run needs that order, one under another policy has none.
            `None` answers each request at once.

    Raises:
        InputError: From `submit`: a request is not in the record, or continues another prompt than the
            recorded one. Then the program does not act as it did, and a replay would be wrong.
    """

    def __init__(
        self,
        completions: Mapping[str, RecordedCompletion],
        *,
        last: str | None = None,
        order: Sequence[str] | None = None,
    ) -> None:
        self._completions = completions
        self._last = last
        self._order = None if order is None else deque(order)
        self._waiting: dict[str, tuple[Sink, Completion]] = {}

    @property
    def name(self) -> str:
        """`replay`."""
        return "replay"

    @property
    def abilities(self) -> frozenset[Ability]:
        """All of them: what was recorded could be asked for."""
        return frozenset(Ability)

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Deliver what was recorded: at once in the order of the requests, or in the recorded order when it is its turn."""
        for request in requests:
            completion = self._find(request).to_completion(request.key)
            if self._order is None:
                sink(completion)
            else:
                self._waiting[request.key.request_id] = sink, completion
        while self._order and self._order[0] in self._waiting:
            deliver, completion = self._waiting.pop(self._order.popleft())
            deliver(completion)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """A record has what became of a cancelled request too, and its turn is kept."""

    def check_health(self) -> None:
        """A record is well, unless the next completion in its order is of a request that nobody sent."""
        if self._order and self._waiting:
            raise InputError(
                f"The record has a completion of {self._order[0]!r} next, which the program did not ask for: it does "
                "not act as it did when it was recorded. Replay it without its order, or record it anew."
            )

    def close(self) -> None:
        """Nothing to free."""

    def _find(self, request: Request) -> RecordedCompletion:
        name = request.key.request_id
        found = self._completions.get(name)
        if found is None:
            raise InputError(
                f"The record has no request {name!r}: under this policy the program asks for what it did not ask "
                "for when it was recorded. Record a run to the full budget with the same program and options."
            )
        if found.kind != name_kind(request) or found.prompt != fingerprint(request.prompt):
            raise InputError(
                f"Request {name!r} is not the recorded one: it continues another prompt. A tree whose shape depends "
                "on the grants can only be replayed under the grants that it was recorded with."
            )
        if isinstance(request, Generate) and not self._fits(found, request):
            raise InputError(
                f"Request {name!r} was recorded with another end: it has {len(found.token_ids)} tokens and ended with "
                f"{found.finish_reason.value!r}, but at most {request.sampling.max_new_tokens} are asked for now"
                f"{', up to ' + repr(request.sampling.stop) if request.sampling.stop else ''}. Replay it with the budget "
                "that it was recorded with, and a chain under a rule that reads at the same places."
            )
        return found

    def _fits(self, found: RecordedCompletion, request: Generate) -> bool:
        """Whether a completion can be the answer to this request: no longer than it, ended for a reason that it gives."""
        limit, count = request.sampling.max_new_tokens, len(found.token_ids)
        if found.finish_reason is FinishReason.LENGTH and count < limit:
            # The context may end a text early, but only its last piece; a piece that goes on was cut at its own limit.
            return self._last in (None, found.request_id)
        return count <= limit and (
            found.finish_reason is not FinishReason.STOP or bool(request.sampling.stop)
        )


def replay_programs(
    traces: Sequence[ProgramTrace],
    policy: AllocationPolicy,
    *,
    budget: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    exact: bool = False,
) -> list[ReplayedQuestion]:
    """One row for each question and draw under a policy, beside the same at the full budget.

    Args:
        traces: Recorded programs.
        policy: Decides how much each spends.
        budget: Full budget in units of the knob; by default what was recorded.
        draws: Random orders of each question's independent samples; `None` keeps the recorded one.
        seed: Seeds the orders.
        exact: Run the program itself also where the samples alone would do (slower, the same rows).

    Raises:
        InputError: There is no trace; or a tree is to be drawn from, or does not act as it did.
        ConfigurationError: The budget is above the recorded one.
    """
    if not traces:
        raise InputError("Got no trace but expected at least one.")
    _check_budget(traces, budget)
    if not exact and all(trace.program == "self_consistency" for trace in traces):
        samples = [read_samples(trace) for trace in traces]
        return replay_samples(samples, policy, budget=budget, draws=draws, seed=seed)
    if draws is not None and draws < 1:
        raise ConfigurationError(f"Got {draws = } but expected at least 1, or None for the recorded order.")
    return [
        _replay_one(trace, policy, budget or trace.budget, draw, _order(trace, draws, draw, seed))
        for draw in range(draws or 1)
        for trace in traces
    ]


def replay_answer(
    trace: ProgramTrace,
    policy: AllocationPolicy,
    *,
    budget: int | None = None,
    completions: Mapping[str, RecordedCompletion] | None = None,
    in_order: bool = False,
) -> Answer:
    """Run the recorded program again under a policy, from the record alone.

    Args:
        trace: The record.
        policy: Decides how much it spends.
        budget: Full budget in units of the knob; by default what was recorded.
        completions: By name, instead of the recorded ones.
        in_order: Whether completions come in the recorded order; only for the policy that it was recorded under.
    """
    recipe = read_recipe(trace, policy, budget or trace.budget)
    program, _ = recipe.build(trace.question, label=trace.id)
    order = [item.request_id for item in trace.completions] if in_order else None
    engine = ReplayEngine(completions or {item.request_id: item for item in trace.completions}, order=order)
    return run(program, engine, policy)


def read_recipe(trace: ProgramTrace, policy: AllocationPolicy, budget: int) -> Recipe:
    """The recipe of a trace with another policy and budget.

    Raises:
        InputError: The trace has a field that this version does not know.
    """
    known = {item.name for item in fields(Recipe)} - set(NOT_SAMPLING)
    if unknown := sorted(set(trace.recipe) - known):
        raise InputError(f"The recipe of {trace.id!r} has unknown fields: {', '.join(unknown)}.")
    return Recipe(**{**trace.recipe, "budget": budget, "policy": policy})


def _replay_one(
    trace: ProgramTrace,
    policy: AllocationPolicy,
    budget: int,
    draw: int,
    completions: Mapping[str, RecordedCompletion],
) -> ReplayedQuestion:
    answer = replay_answer(trace, policy, budget=budget, completions=completions)
    full = replay_answer(trace, Even(), budget=budget, completions=completions)
    return ReplayedQuestion(
        id=trace.id,
        draw=draw,
        group=trace.group,
        answer=answer.text,
        is_correct=grade(trace, answer.text),
        baseline_is_correct=grade(trace, full.text),
        net_tokens=answer.usage.net_tokens,
        baseline_tokens=full.usage.net_tokens,
        sequential_tokens=answer.sequential_tokens,
        baseline_sequential_tokens=full.sequential_tokens,
        is_early=answer.is_early,
        stopped_at=answer.units_spent,
        explanation=answer.explanation,
    )


def grade(trace: ProgramTrace, answer: str | None) -> bool:
    """Whether an answer to a recorded question is right, as the run that recorded it would grade it."""
    format = trace.recipe.get("answer_format", "auto")
    return answer is not None and grade_answer(answer, trace.reference, format)


def _order(trace: ProgramTrace, draws: int | None, draw: int, seed: int) -> Mapping[str, RecordedCompletion]:
    by_name = {item.request_id: item for item in trace.completions}
    if draws is None:
        return by_name
    if len({(item.kind, item.prompt) for item in trace.completions}) != 1:
        raise InputError(
            f"The trace of {trace.id!r} is a tree: its pieces depend on each other and cannot be drawn at random. "
            "Leave draws out."
        )
    names = sorted(by_name, key=lambda name: int(name.rpartition("-")[2]))
    drawn = random.Random(f"{seed}/{draw}/{trace.id}").sample(names, len(names))
    return {name: by_name[other] for name, other in zip(names, drawn, strict=True)}


def _check_budget(traces: Iterable[ProgramTrace], budget: int | None) -> None:
    for trace in traces:
        if budget is not None and budget > trace.budget:
            raise ConfigurationError(
                f"Got a budget of {budget} {trace.unit} but {trace.id!r} was recorded with {trace.budget}."
            )


__all__ = [
    "ReplayEngine",
    "grade",
    "read_recipe",
    "replay_answer",
    "replay_programs",
]
