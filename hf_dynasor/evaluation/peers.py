"""Other people's rules in this harness: the same questions, the same recorded samples, one table.

A peer runs with the setting that its authors published, and with one that is chosen on other questions as ours are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.report_replays import ReplayedRun
from hf_dynasor.evaluation.report_settings import Setting, merge_settings
from hf_dynasor.evaluation.report_statistics import Comparison, Summary, compare, summarise_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A rule on votes.

    Args:
        name: What it is called in tables.
        published: With its authors' setting; `None` where they give none.
        candidates: Settings that one is chosen from on other questions.
        is_ours: Whether it is this project's.
    """

    name: str
    published: PolicySpec | None
    candidates: tuple[PolicySpec, ...] = field(default=())
    is_ours: bool = False


def _list_specs(name: str, option: str, values: Sequence[Any], **more: Any) -> tuple[PolicySpec, ...]:
    return tuple(PolicySpec(name=name, parameters={option: value, **more}) for value in values)


def _list_thresholds(values: Sequence[float]) -> tuple[PolicySpec, ...]:
    return _list_specs("static", "thresholds", [{"entropy": value} for value in values], detect_at=5)


PEERS = (
    Peer(name="even", published=PolicySpec(name="even")),
    Peer(
        name="length (the paper's baseline)",
        published=None,
        candidates=_list_specs("length", "max_tokens", (150, 200, 250, 300, 350, 400, 500, 700), detect_at=5),
    ),
    Peer(
        name="AdaptiveConsistency",
        published=PolicySpec(name="adaptive_consistency", parameters={"confidence": 0.95}),
        candidates=_list_specs(
            "adaptive_consistency", "confidence", (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99)
        ),
    ),
    Peer(
        name="ESC (consistency windows)",
        published=PolicySpec(name="window", parameters={"window": 5}),
        candidates=_list_specs("window", "window", (2, 3, 4, 5, 6, 8)),
    ),
    Peer(
        name="certaindex, static (Dynasor)",
        published=PolicySpec(name="static", parameters={"thresholds": {"entropy": 0.7}, "detect_at": 5}),
        candidates=_list_thresholds((0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)),
    ),
    Peer(
        name="forecast",
        published=None,
        candidates=_list_specs("forecast", "risk", (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08)),
        is_ours=True,
    ),
    Peer(
        name="forecast, giving up",
        published=None,
        candidates=tuple(
            PolicySpec(
                name="forecast",
                parameters={"risk": risk, "give_up": {"entropy": limit}, "give_up_at": at},
            )
            for risk in (0.01, 0.02, 0.05)
            for limit in (0.1, 0.2, 0.3)
            for at in (5, 8)
        ),
        is_ours=True,
    ),
)
"""Rules on the votes of independent samples; those on long chains are measured by `benchmarks/traces.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """One peer with one setting.

    Args:
        peer: Whose.
        how: `published` or `chosen`: where the setting comes from.
        spec: The setting.
        summary: Its figures.
        against_even: Beside the full budget.
    """

    peer: Peer
    how: str
    spec: PolicySpec
    summary: Summary
    against_even: Comparison

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON; shares, not percent."""
        paired, tokens = self.against_even.difference, self.against_even.tokens
        return {
            "peer": self.peer.name,
            "is_ours": self.peer.is_ours,
            "how": self.how,
            "setting": self.spec.title,
            "accuracy": round(self.summary.accuracy, 4),
            "net_tokens": round(self.summary.net_tokens, 1),
            "sequential_tokens": round(self.summary.sequential_tokens, 1),
            "saved": round(tokens.saved, 4),
            "saved_interval": [round(tokens.low, 4), round(tokens.high, 4)],
            "difference": round(paired.mean, 4),
            "difference_interval": [round(paired.low, 4), round(paired.high, 4)],
            "lost": round(self.against_even.lost, 4),
        }


def compare_peers(
    test: Sequence[ReplayedRun],
    calibration: ReplayedRun,
    *,
    budget: int,
    peers: Sequence[Peer] = PEERS,
) -> list[PeerRow]:
    """Every peer on the same samples.

    Args:
        test: Recorded samples of the test questions, one run a seed.
        calibration: Of other questions.
        budget: Samples of the full budget.
        peers: Whom to compare.

    Raises:
        InputError: Test and calibration share a question.
    """
    shared = {id for run in test for id, _ in run.steps} & {id for id, _ in calibration.steps}
    if shared:
        raise InputError(
            f"Got {len(shared)} questions both to choose and to judge on, such as {sorted(shared)[0]!r}. "
            "Expected different ones."
        )
    full = _apply(test, PolicySpec(name="even"), budget)
    rows = []
    for peer in peers:
        chosen = choose_setting(peer.candidates, calibration, budget=budget)
        for how, spec in (("published", peer.published), ("chosen", chosen)):
            if spec is None:
                continue
            setting = _apply(test, spec, budget)
            against = compare(setting, full)
            if against is None:
                raise InputError("Got fewer than two test questions but a comparison needs at least two.")
            summary = summarise_setting(setting)
            rows.append(PeerRow(peer=peer, how=how, spec=spec, summary=summary, against_even=against))
    return rows


def choose_setting(
    candidates: Sequence[PolicySpec], calibration: ReplayedRun, *, budget: int
) -> PolicySpec | None:
    """Of the settings that lose no accuracy on the calibration questions, the one that saves most there.

    `None` where there is none to choose from, or each loses some.
    """
    full = calibration.make_setting(PolicySpec(name="even"), budget)
    best: tuple[float, PolicySpec] | None = None
    for spec in candidates:
        found = compare(calibration.make_setting(spec, budget), full)
        if (
            found is not None
            and found.difference.mean >= 0
            and (best is None or found.tokens.saved > best[0])
        ):
            best = found.tokens.saved, spec
    return None if best is None else best[1]


def _apply(runs: Sequence[ReplayedRun], spec: PolicySpec, budget: int) -> Setting:
    return merge_settings(run.make_setting(spec, budget) for run in runs)[0]


__all__ = ["PEERS", "Peer", "PeerRow", "choose_setting", "compare_peers"]
