"""What allocation policies share: grants of what is left, readings of thresholds, and checks of options."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import Decision, GrantRecord, Knob, StopReason


def grant_rest(knob: Knob, trace: Sequence[GrantRecord], why_not_earlier: str = "") -> Decision:
    """All units that are left; a denial where none is."""
    return grant_some(knob, trace, knob.maximum, why_not_earlier)


def grant_some(knob: Knob, trace: Sequence[GrantRecord], units: int, why_not_earlier: str = "") -> Decision:
    """At most `units` of what is left; a denial where nothing is."""
    left = knob.maximum - (trace[-1].total if trace else 0)
    if left > 0:
        return Decision(units=min(units, left))
    words = f"the budget of {knob.describe(knob.maximum)} is spent"
    words = f"{words}; {why_not_earlier}" if why_not_earlier else words
    return Decision(units=0, stop_reason=StopReason.BUDGET, explanation=words)


def stop_certain(words: str) -> Decision:
    """A denial because the answer is certain."""
    return Decision(units=0, stop_reason=StopReason.CERTAIN, explanation=words)


def judge(
    knob: Knob, record: GrantRecord, thresholds: Thresholds, give_up: Thresholds | None
) -> Decision | None:
    """A denial where a reading is certain or hopeless and something is left to save; else `None`."""
    if record.total >= knob.maximum:
        return None
    if thresholds.are_exceeded_by(record.certaindex):
        return stop_certain(describe_reading(knob, record, thresholds))
    return judge_hopeless(knob, record, give_up)


def judge_hopeless(knob: Knob, record: GrantRecord, give_up: Thresholds | None) -> Decision | None:
    """A denial where every signal of `give_up` is known and below its limit; else `None`."""
    if give_up is None or record.total >= knob.maximum:
        return None
    signals, limits = record.certaindex.signals, give_up.to_dict()
    if not all(name in signals and signals[name] < limit for name, limit in limits.items()):
        return None
    words = ", ".join(f"{name} {signals[name]:.2f} < {limit:.2f}" for name, limit in limits.items())
    words = f"{words} at {knob.describe(record.total)}: more would hardly help"
    return Decision(units=0, stop_reason=StopReason.HOPELESS, explanation=words)


def describe_reading(knob: Knob, record: GrantRecord, thresholds: Thresholds) -> str:
    """A reading in words, such as `entropy 1.00 > 0.70 at 5 samples`."""
    return f"{thresholds.describe(record.certaindex)} at {knob.describe(record.total)}"


def check_units(name: str, units: object, *, least: int = 1) -> None:
    """Raise `ConfigurationError` unless a number of units is whole and at least `least`."""
    if not isinstance(units, int) or isinstance(units, bool) or units < least:
        raise ConfigurationError(f"Got {name} = {units} but expected a whole number of at least {least}.")


def check_reading(detect_at: int, thresholds: Thresholds, give_up: Thresholds | None = None) -> None:
    """Raise `ConfigurationError` for a reading that could never stop anything, or that contradicts itself."""
    check_units("detect_at", detect_at)
    needs_two = {"entropy", "agreement"} & (set(thresholds.to_dict()) | set(_limits(give_up)))
    if detect_at == 1 and needs_two:
        raise ConfigurationError(
            "Got detect_at = 1 with a threshold on entropy or agreement, which one path alone does not have. "
            "Expected at least 2."
        )
    certain = thresholds.to_dict()
    for name, limit in _limits(give_up).items():
        if limit > certain.get(name, limit):
            raise ConfigurationError(
                f"Got give_up {name} = {limit} above its threshold {certain[name]}. Expected at most the threshold."
            )


def _limits(give_up: Thresholds | None) -> dict[str, float]:
    return give_up.to_dict() if give_up is not None else {}
