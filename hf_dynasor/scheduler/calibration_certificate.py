"""`Certificate`: what a calibration promised, on how much evidence, and what drift is later measured against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.scheduler.calibration import Method
from hf_dynasor.scheduler.calibration_bounds import Bound

LossName = Literal["paired", "accuracy"]
LOSSES: tuple[LossName, ...] = get_args(LossName)

NUM_BINS = 20
"""Bins of the share of the budget that was spent; the last one holds 1 and above."""

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Share of the full budget's tokens that was saved, with a bootstrap interval over questions."""

    share: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The same evidence within one group of questions; upper bounds hold for all groups at once."""

    num_questions: int
    realised_risk: float
    p_value: float | None
    upper_bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """How the policy behaved on the calibration questions, for the drift check.

    Args:
        num_early: Questions that ended early; one with several draws counts by its share of them, rounded in the sum.
        spent: Counts of questions by the share of the full budget spent, in `NUM_BINS` equal bins of [0, 1].
        lengths: Counts of questions by the full budget's tokens, in powers of two from 1.
    """

    num_early: int
    spent: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The promise and its evidence.

    Args:
        risk: Promised: the mean loss over all questions is below it.
        confidence: Chance over calibration sets that the promise holds; `None` for `crc`, whose promise is on
            average.
        loss: `paired`: right at the full budget and wrong when stopped. `accuracy`: the plain drop.
        method, bound: How it was tested, see `calibration` and `calibration_bounds`.
        num_questions: Questions that it rests on; draws of one question count once.
        num_needed: Least number of questions, none lost, that could have certified this setting.
        num_settings, num_certified: How many settings were tried, and how many passed.
        realised_risk: Mean loss on the calibration questions.
        p_value: Of "the risk is the promised or more"; `None` for `crc`.
        upper_bound: On the mean loss, at the level of this setting's own test.
        accuracy, baseline_accuracy: On the calibration questions, with the policy and at the full budget.
        tokens_saved: Net tokens, probes and rewards counted. Chosen as the best, so a little too good.
        early_stop_rate: Share of the questions (mean over draws) that ended early.
        is_run_to_cap: Whether nothing could be certified, so that the policy is the full budget itself.
        model: Whose traces they were, where known: another model's questions are not covered.
        budget: Full budget in units of the knob, where it has some: another cap is not covered.
        groups: The same within each group, where one was asked for.
        fingerprint: SHA-256 over the calibration rows; tells data apart without naming it.
        reference: For the drift check.
        warnings: What a reader should know, in words.
        created_by: Package and version.
    """

    risk: float
    confidence: float | None
    loss: LossName
    method: Method
    bound: Bound
    num_questions: int
    num_needed: int
    num_settings: int
    num_certified: int
    realised_risk: float
    p_value: float | None
    upper_bound: float
    accuracy: float
    baseline_accuracy: float
    tokens_saved: Saving
    early_stop_rate: float
    is_run_to_cap: bool
    model: str | None = None
    budget: int | None = None
    groups: Mapping[str, GroupResult] = field(default_factory=lambda: MappingProxyType({}))
    fingerprint: str
    reference: Reference
    warnings: tuple[str, ...] = ()
    created_by: str

    def to_dict(self) -> dict[str, Any]:
        """The certificate, ready for JSON."""
        row = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("groups", "tokens_saved", "reference", "warnings")
        }
        return row | {
            "tokens_saved": asdict(self.tokens_saved),
            "groups": {name: asdict(group) for name, group in self.groups.items()},
            "reference": {
                "num_early": self.reference.num_early,
                "spent": list(self.reference.spent),
                "lengths": list(self.reference.lengths),
            },
            "warnings": list(self.warnings),
        }


def read_certificate(row: object) -> Certificate:
    """A certificate from parsed JSON.

    Raises:
        InputError: A key is missing or unknown, or a value has the wrong type or range.
    """
    return read_fields(Certificate, row, "certificate", _CERTIFICATE)


def read_fields(
    kind: Callable[..., _Read], row: object, where: str, readers: Mapping[str, Callable[[Any, str], Any]]
) -> _Read:
    """Build `kind` from an object with exactly the keys of `readers`; each reader checks its value."""
    if not isinstance(row, Mapping):
        raise InputError(f"Got {where} = {row!r} but expected an object.")
    for name in row:
        if name not in readers:
            raise InputError(f"Unknown key {name!r} in {where}. Known: {', '.join(sorted(readers))}.")
    missing = sorted(set(readers) - set(row))
    if missing:
        raise InputError(f"Missing in {where}: {', '.join(missing)}.")
    values = {name: reader(row[name], f"{where}.{name}") for name, reader in readers.items()}
    try:
        return kind(**values)
    except ConfigurationError as error:
        raise InputError(f"{where}: {error}") from None


def read_text(value: Any, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise InputError(f"Got {where} = {value!r} but expected a text that is not empty.")
    return value


def _number(low: float, high: float) -> Callable[[Any, str], float]:
    def read(value: Any, where: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high:
            raise InputError(f"Got {where} = {value!r} but expected a number from {low:g} to {high:g}.")
        return float(value)

    return read


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"Got {where} = {value!r} but expected a whole number of at least 0.")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"Got {where} = {value!r} but expected true or false.")
    return value


def _one_of(names: tuple[str, ...]) -> Callable[[Any, str], str]:
    def read(value: Any, where: str) -> str:
        if value not in names:
            raise InputError(f"Got {where} = {value!r} but expected one of: {', '.join(names)}.")
        return str(value)

    return read


def _optional(reader: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: None if value is None else reader(value, where)


def _list_of(reader: Callable[[Any, str], Any]) -> Callable[[Any, str], tuple[Any, ...]]:
    def read(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise InputError(f"Got {where} = {value!r} but expected a list.")
        return tuple(reader(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read


def _groups(value: Any, where: str) -> Mapping[str, GroupResult]:
    if not isinstance(value, Mapping):
        raise InputError(f"Got {where} = {value!r} but expected an object.")
    return MappingProxyType(
        {name: read_fields(GroupResult, row, f"{where}.{name}", _GROUP) for name, row in value.items()}
    )


_SHARE, _SIGNED = _number(0, 1), _number(-1, 1)
_SAVING = {"share": _number(-math.inf, 1), "low": _number(-math.inf, 1), "high": _number(-math.inf, 1)}
_GROUP = {
    "num_questions": _count,
    "realised_risk": _SIGNED,
    "p_value": _optional(_SHARE),
    "upper_bound": _SIGNED,
}
_REFERENCE = {"num_early": _count, "spent": _list_of(_count), "lengths": _list_of(_count)}
_CERTIFICATE: dict[str, Callable[[Any, str], Any]] = {
    "risk": _SHARE,
    "confidence": _optional(_SHARE),
    "loss": _one_of(LOSSES),
    "method": _one_of(get_args(Method)),
    "bound": _one_of(get_args(Bound)),
    "num_questions": _count,
    "num_needed": _count,
    "num_settings": _count,
    "num_certified": _count,
    "realised_risk": _SIGNED,
    "p_value": _optional(_SHARE),
    "upper_bound": _SIGNED,
    "accuracy": _SHARE,
    "baseline_accuracy": _SHARE,
    "tokens_saved": lambda value, where: read_fields(Saving, value, where, _SAVING | {"confidence": _SHARE}),
    "early_stop_rate": _SHARE,
    "is_run_to_cap": _flag,
    "model": _optional(read_text),
    "budget": _optional(_count),
    "groups": _groups,
    "fingerprint": read_text,
    "reference": lambda value, where: read_fields(Reference, value, where, _REFERENCE),
    "warnings": _list_of(read_text),
    "created_by": read_text,
}
