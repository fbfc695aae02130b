"""Replays policies over many recorded chains of thought of each question, as they would have been written in parallel.

Time is counted in sequential tokens. All running chains go on together, token by token; at every `interval` of the
policy each running chain is asked for its answer, which costs `probe_tokens` and holds all of them up that long.
Chains that are started later wait for what came before. A policy sees an answer at the first look at or after the
place where it was recorded, never earlier.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from hf_dynasor.answers import is_correct
from hf_dynasor.errors import ConfigurationError, InputError, ProgramError
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.traces.judging import read_key
from hf_dynasor.evaluation.traces.records import RecordedBranch, WidthDepthTrace
from hf_dynasor.scheduler.joint import ChainView, JointDecision, JointPolicy, JointView, lead_vote

PROBE_TOKENS = 20
"""Assumed tokens of a probe, since these traces do not tell: what the paper decodes for each."""

DEFAULT_BUDGET = 64
"""Chains of a draw where none is named; all of them where a question has fewer."""

DEFAULT_DRAWS = 20


def replay_width_depth(
    traces: Iterable[WidthDepthTrace],
    policy: JointPolicy,
    *,
    budget: int | None = None,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
    probe_tokens: int = PROBE_TOKENS,
) -> list[ReplayedQuestion]:
    """One row for each question and draw.

    Args:
        traces: Recorded questions.
        policy: What to start, to end, and when to answer.
        budget: Chains that a draw takes from a question's branches, without replacement; by default 64, or as many
            as every question has.
        draws: Random draws of each question; every question has its own, so that sets may be split.
        seed: Seed of the draws.
        probe_tokens: Tokens that one probe costs.

    Returns:
        Tokens and answers of the policy beside a majority vote over all chains of the draw.

    Raises:
        InputError: A question has fewer branches than the budget, or was probed at other places than the policy
            asks for.
        ConfigurationError: A budget or number of draws below 1, or a negative cost of a probe.
    """
    traces = tuple(traces)
    if budget is None:
        budget = min((len(trace.branches) for trace in traces), default=DEFAULT_BUDGET)
        budget = min(budget, DEFAULT_BUDGET)
    if budget < 1 or draws < 1 or probe_tokens < 0:
        raise ConfigurationError(
            f"Got {budget = }, {draws = }, {probe_tokens = } but expected at least 1, 1 and 0."
        )
    rows = []
    for trace in traces:
        _check(trace, policy, budget)
        generator = random.Random(f"{seed}/{trace.id}")
        for draw in range(draws):
            branches = generator.sample(trace.branches, budget)
            rows.append(_replay(trace, policy, branches, draw, probe_tokens))
    return rows


def _check(trace: WidthDepthTrace, policy: JointPolicy, budget: int) -> None:
    if budget > len(trace.branches):
        raise InputError(
            f"Question {trace.id!r} has {len(trace.branches)} branches but the budget is {budget}. "
            f"Expected a budget of at most {len(trace.branches)}."
        )
    if policy.interval is not None and (policy.interval < 1 or policy.interval % trace.interval):
        raise InputError(
            f"Policy {policy.name!r} probes every {policy.interval} tokens but question {trace.id!r} was probed "
            f"every {trace.interval}. Expected a multiple of that."
        )


def _replay(
    trace: WidthDepthTrace,
    policy: JointPolicy,
    branches: Sequence[RecordedBranch],
    draw: int,
    probe_tokens: int,
) -> ReplayedQuestion:
    run = _Run(branches, probe_tokens)
    decision = run.drive(policy)
    spellings = {read_key(branch.answer): branch.answer for branch in reversed(branches)}
    spellings = {read_key(a): a for branch in branches for a in branch.probes} | spellings
    baseline = lead_vote(read_key(branch.answer) for branch in branches)[0]
    answer, full = spellings.get(decision.key), spellings.get(baseline)
    return ReplayedQuestion(
        id=trace.id,
        draw=draw,
        group=trace.group,
        answer=answer,
        is_correct=is_correct(answer, trace.reference),
        baseline_is_correct=is_correct(full, trace.reference),
        net_tokens=run.net_tokens,
        baseline_tokens=sum(branch.num_tokens for branch in branches),
        sequential_tokens=run.elapsed,
        baseline_sequential_tokens=max(branch.num_tokens for branch in branches),
        is_early=any(not chain.is_whole for chain in run.chains) or len(run.chains) < len(branches),
        stopped_at=run.elapsed,
        explanation=decision.explanation,
    )


@dataclass(slots=True)
class _Chain:
    """A chain while it is replayed."""

    index: int
    branch: RecordedBranch
    num_tokens: int = 0
    num_probes: int = 0
    is_pruned: bool = False
    answers: tuple[Hashable | None, ...] = ()

    @property
    def is_whole(self) -> bool:
        return self.num_tokens == self.branch.num_tokens

    @property
    def is_running(self) -> bool:
        return not (self.is_pruned or self.is_whole)

    def advance(self, step: int) -> None:
        self.num_tokens = min(self.branch.num_tokens, self.num_tokens + step)
        if self.is_whole:
            self.answers += (read_key(self.branch.answer),)

    def probe(self) -> None:
        """Ask: the newest recorded answer that is not past this place."""
        known = [
            a for p, a in zip(self.branch.positions, self.branch.probes, strict=True) if p <= self.num_tokens
        ]
        self.answers += (read_key(known[-1]) if known else None,)
        self.num_probes += 1

    def view(self) -> ChainView:
        return ChainView(
            index=self.index,
            num_tokens=self.num_tokens,
            is_running=self.is_running,
            is_pruned=self.is_pruned,
            answers=self.answers,
        )


class _Run:
    """One question's chains under a policy."""

    def __init__(self, branches: Sequence[RecordedBranch], probe_tokens: int) -> None:
        self._branches = branches
        self._probe_tokens = probe_tokens
        self.chains: list[_Chain] = []
        self.elapsed = 0

    @property
    def net_tokens(self) -> int:
        return sum(chain.num_tokens + chain.num_probes * self._probe_tokens for chain in self.chains)

    def drive(self, policy: JointPolicy) -> JointDecision:
        """Look, decide, go on, until the policy is done or nothing is left to do. Every turn spends tokens or ends."""
        while True:
            views = tuple(chain.view() for chain in self.chains)
            decision = policy.decide(
                JointView(elapsed=self.elapsed, chains=views, budget=len(self._branches))
            )
            if decision.is_done:
                return decision
            self._apply(decision, policy)
            running = [chain for chain in self.chains if chain.is_running]
            if not running:
                return self._vote()
            self._advance(running, policy.interval)

    def _apply(self, decision: JointDecision, policy: JointPolicy) -> None:
        if not 0 <= decision.num_new <= len(self._branches) - len(self.chains):
            raise ProgramError(
                f"Policy {policy.name!r} started {decision.num_new} chains but only "
                f"{len(self._branches) - len(self.chains)} are left."
            )
        for index in decision.pruned:
            self.chains[index].is_pruned = True
        first = len(self.chains)
        for index in range(first, first + decision.num_new):
            self.chains.append(_Chain(index, self._branches[index]))

    def _advance(self, running: Sequence[_Chain], interval: int | None) -> None:
        left = [chain.branch.num_tokens - chain.num_tokens for chain in running]
        # Without probes the next look is when a chain ends; with them, no later than when all have ended.
        step = min(left) if interval is None else min(interval, max(left))
        self.elapsed += step
        for chain in running:
            chain.advance(step)
        if interval is None or not any(chain.is_running for chain in running):
            return
        self.elapsed += self._probe_tokens
        for chain in running:
            if chain.is_running:
                chain.probe()

    def _vote(self) -> JointDecision:
        key = lead_vote(chain.answers[-1] for chain in self.chains if chain.is_whole)[0]
        return JointDecision(is_done=True, key=key, explanation="every chain ended")
