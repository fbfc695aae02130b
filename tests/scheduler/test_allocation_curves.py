"""Curves: what is fitted, what they ask for, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import GrantRecord, Knob, StopReason
from hf_dynasor.scheduler import DynamicCurve, InitialStepCurve, fit_curve
from hf_dynasor.scheduler.allocation_curves import _read

KNOB = Knob(unit="samples", maximum=20)
POINTS = ((0.4, 30), (0.6, 12), (1.0, 5))
PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), st.integers(1, 30)), min_size=1)


def spend(policy, entropies, knob=KNOB):
    """Grants until the policy denies; entropy after `n` units is `entropies(n)`."""
    trace = ()
    while (decision := policy.allocate(knob, trace)).units:
        total = decision.units + (trace[-1].total if trace else 0)
        reading = Certaindex(entropy=entropies(total), num_paths=total)
        usage = Usage(sampled=total)
        record = GrantRecord(
            units=decision.units, total=total, certaindex=reading, usage=usage, sequential_tokens=total
        )
        trace = (*trace, record)
    return [record.units for record in trace], decision.stop_reason


def test_the_initial_curve_grants_what_its_first_reading_asks_for():
    policy = InitialStepCurve(points=POINTS)
    assert spend(policy, lambda _: 1.0) == ([5], StopReason.CERTAIN)
    assert spend(policy, lambda _: 0.5) == ([5, 7], StopReason.CERTAIN)
    assert spend(policy, lambda _: 0.1) == ([5, 15], StopReason.BUDGET)


def test_the_initial_curve_never_reads_again():
    assert spend(InitialStepCurve(points=POINTS), lambda n: 0.5 if n == 5 else 0.0)[0] == [5, 7]


def test_the_dynamic_curve_reads_after_every_unit():
    policy = DynamicCurve(points=POINTS)
    assert spend(policy, lambda n: 0.5 if n < 9 else 1.0) == ([5, 1, 1, 1, 1], StopReason.CERTAIN)
    assert spend(policy, lambda n: 0.1)[1] is StopReason.BUDGET


def test_a_signal_that_is_not_known_runs_to_the_cap():
    assert spend(InitialStepCurve(points=POINTS, signal="reward"), lambda _: 1.0) == (
        [5, 15],
        StopReason.BUDGET,
    )


@given(PAIRS)
def test_the_envelope_covers_every_pair_and_never_rises(pairs):
    curve = fit_curve(pairs)
    for reading, units in pairs:
        assert _read(curve, "entropy", Certaindex(entropy=reading, num_paths=2), 99) >= units
    assert list(curve) == sorted(curve, key=lambda point: (point[0], -point[1]))
    InitialStepCurve(points=curve)


@given(PAIRS, st.floats(0.05, 1.0))
def test_less_coverage_never_asks_for_more(pairs, coverage):
    full, part = fit_curve(pairs), fit_curve(pairs, coverage=coverage)
    for reading in (0.0, 0.3, 0.6, 1.0):
        certaindex = Certaindex(entropy=reading, num_paths=2)
        assert _read(part, "entropy", certaindex, 99) <= _read(full, "entropy", certaindex, 99)


@given(PAIRS, st.floats(0.05, 1.0))
def test_a_point_covers_its_share_of_the_pairs_that_read_as_much(pairs, coverage):
    for reading, units in fit_curve(pairs, coverage=coverage):
        above = [needed for value, needed in pairs if value >= reading]
        assert sum(needed <= units for needed in above) >= coverage * len(above) - 1e-9


@pytest.mark.parametrize(
    "points", [((0.5, 5), (0.4, 3)), ((0.4, 5), (0.6, 5)), ((1.5, 5),), ((0.5, 0),), ((0.5,),)]
)
def test_points_that_make_no_curve_are_refused(points):
    with pytest.raises(ConfigurationError, match="Got"):
        DynamicCurve(points=points)


def test_fitting_refuses_what_it_cannot_fit():
    with pytest.raises(ConfigurationError, match="no reading"):
        fit_curve([])
    with pytest.raises(ConfigurationError, match="coverage = 0"):
        fit_curve([(1.0, 5)], coverage=0)
    with pytest.raises(ConfigurationError, match="Unknown signal 'entropie'"):
        InitialStepCurve(points=POINTS, signal="entropie")
