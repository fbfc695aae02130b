"""Replays of recorded samples: independent paths of one question, whose answers are grouped once for all.

It asks the same policies with the same records as `SelfConsistency` would, but never looks at a text again: ten
thousand programs take seconds. That its decisions are those of the program itself is tested, not assumed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hf_dynasor.certaindex import Certaindex, agreement, mean_signal, normalised_entropy
from hf_dynasor.core import FinishReason, Usage
from hf_dynasor.errors import ConfigurationError, InputError, ProgramError
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.grants import AllocationPolicy, Decision, GrantRecord, Knob


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedSample:
    """One sampled path.

    Args:
        answer: What it states; `None` where it states nothing.
        key: Equal for equal answers; `None` where it states nothing.
        is_correct: Whether the answer is right.
        probability: Geometric mean probability of the answer's tokens, where known.
        usage: Its tokens.
        is_failed: Whether the engine failed to finish it: then it has no vote and is no path.
    """

    answer: str | None
    key: tuple[str, str] | None
    is_correct: bool
    probability: float | None = None
    usage: Usage
    is_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """The samples of one question, in the order in which they were asked for.

    Args:
        id: The question.
        group: Its domain or difficulty, where known.
        samples: At least one.
        unit: What the samples are called.
    """

    id: str
    group: str | None = None
    samples: tuple[GradedSample, ...]
    unit: str = "samples"

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError(f"Question {self.id!r} has no samples but a replay needs at least one.")

    def draw(self, rng: random.Random) -> SampleSet:
        """The same samples in a random order."""
        return replace(self, samples=tuple(rng.sample(self.samples, len(self.samples))))


class SampleRun:
    """Prefixes of one question's samples, as a policy sees them.

    Args:
        trace: The samples.
        budget: How many of them a policy may spend at most.
    """

    def __init__(self, trace: SampleSet, budget: int | None = None) -> None:
        budget = len(trace.samples) if budget is None else budget
        if budget > len(trace.samples):
            raise ConfigurationError(
                f"Got a budget of {budget} {trace.unit} but question {trace.id!r} has {len(trace.samples)} recorded."
            )
        self.trace = trace
        self.knob = Knob(unit=trace.unit, maximum=budget)
        self._samples = trace.samples[:budget]

    def run(self, policy: AllocationPolicy) -> tuple[tuple[GrantRecord, ...], Decision]:
        """Ask the policy until it denies.

        Raises:
            ProgramError: It grants more than is left.
        """
        records: tuple[GrantRecord, ...] = ()
        while (decision := policy.allocate(self.knob, records)).units:
            total = decision.units + (records[-1].total if records else 0)
            if total > self.knob.maximum:
                raise ProgramError(
                    f"Policy {policy.name!r} granted {total} {self.knob.unit} of {self.knob.maximum} in all."
                )
            records = (*records, self._record(records[-1] if records else None, total))
        return records, decision

    def read_groups(self, total: int) -> tuple[int, ...]:
        """See `GrantRecord.groups`, after `total` samples."""
        return self._memberships[: self._num_finished[total]]

    def select(self, total: int) -> tuple[str | None, bool]:
        """The answer after `total` samples, in its most common spelling, and whether it is right.

        Raises:
            ProgramError: None of the samples was finished.
        """
        if not self._num_finished[total]:
            raise ProgramError(f"No sample of {self.trace.id!r} was finished among the first {total}.")
        majority = self._list_majority(total)
        spellings = Counter(sample.answer for sample in majority)
        if not spellings:
            return None, False
        answer = spellings.most_common(1)[0][0]
        return answer, next(sample.is_correct for sample in majority if sample.answer == answer)

    def is_right(self, total: int) -> bool:
        """Whether the answer after `total` samples is right; without a finished sample there is none."""
        return bool(self._num_finished[total]) and self.select(total)[1]

    def count_net_tokens(self, total: int) -> int:
        """Net tokens of the first `total` samples."""
        return self._usages[total].net_tokens

    def count_tokens(self, total: int) -> Usage:
        """Tokens of the first `total` samples."""
        return self._usages[total]

    @cached_property
    def _finished(self) -> tuple[GradedSample, ...]:
        return tuple(sample for sample in self._samples if not sample.is_failed)

    @cached_property
    def _memberships(self) -> tuple[int, ...]:
        numbers: dict[object, int] = {}
        keys = [(index,) if item.key is None else item.key for index, item in enumerate(self._finished)]
        return tuple(numbers.setdefault(key, len(numbers)) for key in keys)

    @cached_property
    def _num_finished(self) -> tuple[int, ...]:
        counts = [0]
        for sample in self._samples:
            counts.append(counts[-1] + (not sample.is_failed))
        return tuple(counts)

    @cached_property
    def _usages(self) -> tuple[Usage, ...]:
        usages = [Usage()]
        for sample in self._samples:
            usages.append(usages[-1] + sample.usage)
        return tuple(usages)

    def _list_majority(self, total: int) -> list[GradedSample]:
        """The samples of the largest group; of groups of one size, the one seen first."""
        finished = self._finished[: self._num_finished[total]]
        stated = [
            number for number, item in zip(self._memberships, finished, strict=False) if item.key is not None
        ]
        if not stated:
            return []
        # A Counter keeps the order of appearance, and `most_common` the order of equals.
        winner = Counter(stated).most_common(1)[0][0]
        return [item for number, item in zip(self._memberships, finished, strict=False) if number == winner]

    def read(self, total: int) -> Certaindex:
        """The reading after `total` samples."""
        groups = self.read_groups(total)
        sizes = (*Counter(groups).values(), *(1 for _ in range(total - len(groups))))
        majority = self._list_majority(total)
        probabilities = [item.probability for item in majority if item.probability is not None]
        return Certaindex(
            entropy=normalised_entropy(sizes),
            agreement=agreement(sizes) if majority else None,
            answer_probability=mean_signal(probabilities),
            num_paths=len(groups),
        )

    def _record(self, last: GrantRecord | None, total: int) -> GrantRecord:
        before = last.total if last else 0
        wave = max(sample.usage.net_tokens for sample in self._samples[before:total])
        return GrantRecord(
            units=total - before,
            total=total,
            certaindex=self.read(total),
            usage=self.count_tokens(total),
            sequential_tokens=(last.sequential_tokens if last else 0) + wave,
            groups=self.read_groups(total),
        )


def read_samples(trace: ProgramTrace) -> SampleSet:
    """The samples of a recorded self-consistency program.

    Raises:
        InputError: The program has no independent samples.
    """
    if trace.program != "self_consistency":
        raise InputError(
            f"Got a trace of program {trace.program!r} but only self_consistency has independent samples."
        )
    paths = {path.request_id: path for path in trace.paths}
    completions = {item.request_id: item for item in trace.completions}
    samples = []
    for index in range(trace.budget):
        name = f"sample-{index}"
        if name not in completions:
            raise InputError(f"The trace of {trace.id!r} has no completion of {name}.")
        path, completion = paths.get(name), completions[name]
        samples.append(
            GradedSample(
                answer=path.answer if path else None,
                key=path.key if path else None,
                is_correct=path.is_correct if path else False,
                probability=path.probability if path else None,
                usage=completion.usage,
                is_failed=completion.finish_reason is FinishReason.FAILED,
            )
        )
    return SampleSet(id=trace.id, group=trace.group, samples=tuple(samples), unit=trace.unit)


def draw_samples(traces: Iterable[SampleSet], draws: int | None, seed: int) -> list[tuple[int, SampleSet]]:
    """Every question as recorded (`draws` is `None`), or so many times in random orders.

    Raises:
        ConfigurationError: There are fewer than one draw.
    """
    if draws is None:
        return [(0, trace) for trace in traces]
    if draws < 1:
        raise ConfigurationError(f"Got {draws = } but expected at least 1, or None for the recorded order.")
    return [
        (draw, trace.draw(random.Random(f"{seed}/{draw}/{trace.id}")))
        for draw in range(draws)
        for trace in traces
    ]


def replay_samples(
    traces: Sequence[SampleSet],
    policy: AllocationPolicy,
    *,
    budget: int | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[ReplayedQuestion]:
    """One row for each question and draw, beside the full budget of the same draw.

    Args:
        traces: Recorded samples.
        policy: Decides how many of them are spent.
        budget: Full budget; by default all that were recorded.
        draws: Random orders of each question's samples; `None` keeps the recorded one.
        seed: Seeds the orders.
    """
    return [
        _replay_one(SampleRun(trace, budget), policy, draw)
        for draw, trace in draw_samples(traces, draws, seed)
    ]


def _replay_one(run: SampleRun, policy: AllocationPolicy, draw: int) -> ReplayedQuestion:
    records, decision = run.run(policy)
    total, full = records[-1].total, run.knob.maximum
    answer, is_right = run.select(total)
    return ReplayedQuestion(
        id=run.trace.id,
        draw=draw,
        group=run.trace.group,
        answer=answer,
        is_correct=is_right,
        baseline_is_correct=run.select(full)[1],
        net_tokens=run.count_tokens(total).net_tokens,
        baseline_tokens=run.count_tokens(full).net_tokens,
        sequential_tokens=records[-1].sequential_tokens,
        baseline_sequential_tokens=max(item.usage.net_tokens for item in run.trace.samples[:full]),
        is_early=total < full,
        stopped_at=total,
        explanation=decision.explanation,
    )
