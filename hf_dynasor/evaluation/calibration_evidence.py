"""What replays of many settings say, question by question: the input of every certificate and every split.

Draws of one question are not independent, so the unit is the question: its numbers are means over its draws.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.scheduler.calibration_bounds import Bound
from hf_dynasor.scheduler.calibration_certificate import LossName


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedSetting:
    """One setting of a policy, replayed on all questions.

    Args:
        name: Of the policy.
        parameters: Its options, as plain JSON.
        rows: One for each question and draw.
    """

    name: str
    parameters: Mapping[str, Any]
    rows: Sequence[ReplayedQuestion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One setting, as means over the draws of each question.

    Args:
        name, parameters: The setting.
        lost: Share of draws that were right at the full budget and wrong when stopped.
        correct: Share of draws that are right.
        tokens: Net tokens.
        early: Share of draws that ended early.
        first_tokens: Net tokens of the first draw alone: how a single run spends, however many draws there are.
    """

    name: str
    parameters: Mapping[str, Any]
    lost: tuple[float, ...]
    correct: tuple[float, ...]
    tokens: tuple[float, ...]
    early: tuple[float, ...]
    first_tokens: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every setting on the same questions.

    Args:
        ids: The questions.
        groups: Domain or difficulty of each, where known.
        num_draws: Draws of each.
        baseline_correct, baseline_tokens: Of the full budget, as means over draws.
        first_baseline_tokens: Of the first draw alone.
        paths: Settings from conservative to aggressive, on each path.
        fingerprint: SHA-256 over the baseline's rows.
    """

    ids: tuple[str, ...]
    groups: tuple[str | None, ...]
    num_draws: tuple[int, ...]
    baseline_correct: tuple[float, ...]
    baseline_tokens: tuple[float, ...]
    first_baseline_tokens: tuple[float, ...]
    paths: tuple[tuple[Outcome, ...], ...]
    fingerprint: str

    @property
    def baseline_accuracy(self) -> float:
        """Of the full budget."""
        return math.fsum(self.baseline_correct) / len(self.ids)

    def take(self, positions: Sequence[int]) -> Evidence:
        """The same for some of the questions; the fingerprint stays that of the whole."""
        return replace(
            self,
            ids=_pick(self.ids, positions),
            groups=_pick(self.groups, positions),
            num_draws=_pick(self.num_draws, positions),
            baseline_correct=_pick(self.baseline_correct, positions),
            baseline_tokens=_pick(self.baseline_tokens, positions),
            first_baseline_tokens=_pick(self.first_baseline_tokens, positions),
            paths=tuple(tuple(_take(outcome, positions) for outcome in path) for path in self.paths),
        )

    def compute_losses(self, outcome: Outcome, loss: LossName) -> tuple[float, ...]:
        """The loss of each question: `paired` in [0, 1], `accuracy` (the drop) in [-1, 1]."""
        if loss == "paired":
            return outcome.lost
        return tuple(
            full - stopped for full, stopped in zip(self.baseline_correct, outcome.correct, strict=True)
        )

    def compute_saving(self, outcome: Outcome) -> float:
        """Share of the full budget's tokens that the setting saves; below 0 where it costs more."""
        return 1 - math.fsum(outcome.tokens) / math.fsum(self.baseline_tokens)

    def choose_bound(self, loss: LossName) -> Bound:
        """The test that is valid for how these losses come about, whatever they are."""
        if loss == "accuracy":
            return "betting"
        return "binomial" if max(self.num_draws) == 1 else "hoeffding_bentkus"

    def index_groups(self) -> dict[str, tuple[int, ...]]:
        """The positions of the questions of each group.

        Raises:
            InputError: A question has no group.
        """
        found: dict[str, list[int]] = {}
        for position, group in enumerate(self.groups):
            if group is None:
                raise InputError(
                    f"Question {self.ids[position]!r} has no group but a certificate by group was asked for. "
                    "Leave groups out, or name one for every question."
                )
            found.setdefault(group, []).append(position)
        return {group: tuple(found[group]) for group in sorted(found)}


def collect_evidence(paths: Sequence[Sequence[ReplayedSetting]]) -> Evidence:
    """Bring replays together and check that they are of the same questions.

    Args:
        paths: Settings from conservative to aggressive, on each path.

    Raises:
        InputError: There is no replay, a question is drawn twice under one number, or two settings were replayed
            on different questions or budgets.
    """
    settings = [setting for path in paths for setting in path]
    if not settings or not settings[0].rows or not all(paths):
        raise InputError("Got no replayed question but expected at least one for every setting.")
    first = _sort_rows(settings[0].rows)
    ids = tuple(dict.fromkeys(row.id for row in first))
    counts = Counter(row.id for row in first)
    baseline = _describe_baseline(first)
    for setting in settings[1:]:
        if _describe_baseline(_sort_rows(setting.rows)) != baseline:
            raise InputError(
                f"Settings {dict(settings[0].parameters)} and {dict(setting.parameters)} were replayed on different "
                "questions, draws or full budgets. Expected the same for all."
            )
    by_id = {row.id: row for row in first}
    return Evidence(
        ids=ids,
        groups=tuple(by_id[id].group for id in ids),
        num_draws=tuple(counts[id] for id in ids),
        baseline_correct=_average(first, ids, "baseline_is_correct"),
        baseline_tokens=_average(first, ids, "baseline_tokens"),
        first_baseline_tokens=_average(_keep_first(first), ids, "baseline_tokens"),
        paths=tuple(tuple(_summarise(setting, ids) for setting in path) for path in paths),
        fingerprint=hashlib.sha256(json.dumps(baseline).encode()).hexdigest(),
    )


def _summarise(setting: ReplayedSetting, ids: tuple[str, ...]) -> Outcome:
    rows = _sort_rows(setting.rows)
    return Outcome(
        name=setting.name,
        parameters=setting.parameters,
        lost=_average(rows, ids, "is_lost"),
        correct=_average(rows, ids, "is_correct"),
        tokens=_average(rows, ids, "net_tokens"),
        early=_average(rows, ids, "is_early"),
        first_tokens=_average(_keep_first(rows), ids, "net_tokens"),
    )


def _sort_rows(rows: Sequence[ReplayedQuestion]) -> list[ReplayedQuestion]:
    return sorted(rows, key=lambda row: (row.id, row.draw))


def _keep_first(rows: Sequence[ReplayedQuestion]) -> list[ReplayedQuestion]:
    """The first draw of each question, of rows that are sorted."""
    found: dict[str, ReplayedQuestion] = {}
    for row in rows:
        found.setdefault(row.id, row)
    return list(found.values())


def _describe_baseline(rows: Sequence[ReplayedQuestion]) -> list[list[Any]]:
    described = [[row.id, row.draw, row.baseline_tokens, row.baseline_is_correct] for row in rows]
    for before, after in pairwise(described):
        if before[:2] == after[:2]:
            raise InputError(f"Question {after[0]!r} has draw {after[1]} twice. Expected each once.")
    return described


def _average(rows: Sequence[ReplayedQuestion], ids: tuple[str, ...], name: str) -> tuple[float, ...]:
    values: dict[str, list[float]] = {id: [] for id in ids}
    for row in rows:
        values[row.id].append(float(getattr(row, name)))
    return tuple(math.fsum(values[id]) / len(values[id]) for id in ids)


def _take(outcome: Outcome, positions: Sequence[int]) -> Outcome:
    return replace(
        outcome,
        lost=_pick(outcome.lost, positions),
        correct=_pick(outcome.correct, positions),
        tokens=_pick(outcome.tokens, positions),
        early=_pick(outcome.early, positions),
        first_tokens=_pick(outcome.first_tokens, positions),
    )


def _pick(values: Sequence[Any], positions: Sequence[int]) -> tuple[Any, ...]:
    return tuple(values[position] for position in positions)
