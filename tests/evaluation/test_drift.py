"""New traces against a certificate."""

import random
from dataclasses import replace

import pytest
from scipy import stats

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.calibrate import CalibrationSettings, calibrate
from hf_dynasor.evaluation.calibration_evidence import ReplayedSetting, collect_evidence
from hf_dynasor.evaluation.calibration_report import describe_reference
from hf_dynasor.evaluation.drift import check_drift
from hf_dynasor.evaluation.replayed import ReplayedQuestion


def draw_evidence(number, *, risk, seed, mean_length=1000, stop_rate=0.7):
    rng, rows = random.Random(seed), []
    for index in range(number):
        full, is_early = int(rng.lognormvariate(0, 0.5) * mean_length), rng.random() < stop_rate
        spent = int(full * rng.uniform(0.3, 0.7)) if is_early else full
        rows.append(
            ReplayedQuestion(
                id=f"{seed}-{index}",
                answer="1",
                is_correct=rng.random() >= risk,
                baseline_is_correct=True,
                net_tokens=spent,
                baseline_tokens=full,
                sequential_tokens=spent,
                baseline_sequential_tokens=full,
                is_early=is_early,
                stopped_at=spent,
            )
        )
    return collect_evidence([[ReplayedSetting(name="static", parameters={}, rows=rows)]])


@pytest.fixture(scope="module")
def certificate():
    made = calibrate(draw_evidence(300, risk=0.005, seed="old"), CalibrationSettings()).certificate
    assert not made.is_run_to_cap
    return made


def test_more_of_the_same_is_no_drift(certificate):
    report = check_drift(certificate, draw_evidence(300, risk=0.005, seed="new"))
    assert not report.is_broken
    assert not report.is_shifted
    assert report.num_questions == 300
    assert report.to_dict()["is_broken"] is False


def test_a_question_that_stops_in_half_of_its_draws_counts_half():
    rows = [
        ReplayedQuestion(
            id=str(index),
            draw=draw,
            answer="1",
            is_correct=True,
            baseline_is_correct=True,
            net_tokens=100 if draw else 200,
            baseline_tokens=200,
            sequential_tokens=100 if draw else 200,
            baseline_sequential_tokens=200,
            is_early=draw == 1,
            stopped_at=1,
        )
        for index in range(10)
        for draw in range(2)
    ]
    evidence = collect_evidence([[ReplayedSetting(name="static", parameters={}, rows=tuple(rows))]])
    reference = describe_reference(evidence, evidence.paths[0][0])
    assert reference.num_early == 5
    assert (reference.spent[-1], sum(reference.spent)) == (10, 10), (
        "the first draw spends all, whatever later ones do"
    )


def test_a_risk_above_the_promised_is_noticed_by_an_exact_test(certificate):
    evidence = draw_evidence(300, risk=0.06, seed="bad")
    report = check_drift(certificate, evidence)
    lost = round(report.realised_risk * 300)
    assert report.risk_p_value == pytest.approx(stats.binom.sf(lost - 1, 300, 0.02))
    assert report.is_broken
    assert report.upper_bound > 0.02


@pytest.mark.parametrize(
    ("options", "name"),
    [({"stop_rate": 0.4}, "stop_rate"), ({"stop_rate": 0.4}, "spent"), ({"mean_length": 4000}, "length")],
)
def test_other_questions_are_noticed_before_any_is_lost(certificate, options, name):
    report = check_drift(certificate, draw_evidence(300, risk=0.0, seed="other", **options))
    assert not report.is_broken
    assert report.is_shifted
    assert report.shifts[name].p_value < 0.01


def test_alarms_are_false_no_more_often_than_the_level(certificate):
    """The risk is exactly the promised one and the questions are alike. Of 60 checks at 5% each, more than 10 of
    one kind are false by chance with a probability below 1e-3 (binomial)."""
    assert stats.binom.sf(10, 60, 0.05) < 1e-3
    fresh = draw_evidence(2000, risk=0.02, seed="pool")
    rng, broken, shifted = random.Random(4), 0, 0
    for _ in range(60):
        places = rng.sample(range(2000), 450)
        before = calibrate(fresh.take(places[:300]), CalibrationSettings(risk=0.5)).certificate
        report = check_drift(
            replace(before, risk=0.02),
            replace(fresh.take(places[300:]), fingerprint="other"),
            num_permutations=199,
        )
        broken, shifted = broken + report.is_broken, shifted + report.is_shifted
    assert broken <= 10
    assert shifted <= 10


def test_the_calibration_traces_themselves_are_refused(certificate):
    with pytest.raises(InputError, match="calibrated on"):
        check_drift(certificate, draw_evidence(300, risk=0.005, seed="old"))


def test_bad_levels_are_named(certificate):
    with pytest.raises(ConfigurationError, match="level = 0"):
        check_drift(certificate, draw_evidence(30, risk=0.005, seed="new"), level=0)
