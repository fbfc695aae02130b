"""Calibration end to end on made-up replays: what is chosen, what is refused, and what the certificate says."""

import json
import random

import pytest
from scipy import stats

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.calibrate import CalibrationSettings, calibrate, select
from hf_dynasor.evaluation.calibration_evidence import ReplayedSetting, collect_evidence
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.scheduler.policy_file import load_policy


def row(index, *, lost=False, won=False, right=True, spent=100, full=200, draw=0, group=None):
    return ReplayedQuestion(
        id=f"q{index}",
        draw=draw,
        group=group,
        answer="1",
        is_correct=(right and not lost) or won,
        baseline_is_correct=right,
        net_tokens=spent,
        baseline_tokens=full,
        sequential_tokens=spent,
        baseline_sequential_tokens=full,
        is_early=spent < full,
        stopped_at=spent,
    )


def setting(rows, **parameters):
    return ReplayedSetting(name="static", parameters=parameters, rows=rows)


def make_path(losses, *, number=200, right=None, **options):
    """One path: setting i loses the first `losses[i]` questions and spends 150, 140, ... of 200 tokens."""
    right = number if right is None else right
    return [
        setting(
            [
                row(i, lost=i < lost, right=i < right, spent=150 - 10 * position, **options)
                for i in range(number)
            ],
            detect_at=10 - position,
        )
        for position, lost in enumerate(losses)
    ]


def test_the_boldest_setting_that_holds_is_chosen():
    calibration = calibrate(collect_evidence([make_path([0, 0, 1, 9, 12])]), CalibrationSettings())
    certificate = calibration.certificate
    assert calibration.policy.parameters == {"detect_at": 8}
    assert certificate.p_value == pytest.approx(stats.binom.cdf(1, 200, 0.02))
    assert certificate.realised_risk == 0.005
    assert certificate.upper_bound == pytest.approx(stats.beta.ppf(0.9, 2, 199), abs=1e-9)
    assert certificate.tokens_saved.share == pytest.approx(0.35)
    assert (certificate.num_questions, certificate.num_needed) == (200, 114)
    assert (certificate.num_settings, certificate.num_certified) == (5, 3)
    assert (certificate.accuracy, certificate.baseline_accuracy) == (0.995, 1.0)
    assert certificate.early_stop_rate == 1.0
    assert not certificate.is_run_to_cap
    assert certificate.warnings == ()


def test_the_file_is_read_back_and_says_where_it_came_from(tmp_path):
    calibration = calibrate(collect_evidence([make_path([0, 1])]), CalibrationSettings())
    calibration.policy.save(tmp_path / "policy.json")
    assert load_policy(tmp_path / "policy.json") == calibration.policy
    assert calibration.certificate.created_by.startswith("hf_dynasor ")
    assert str(tmp_path) not in (tmp_path / "policy.json").read_text()


def test_the_same_questions_give_the_same_file_whatever_the_order_of_rows():
    path = make_path([0, 1, 2])
    shuffled = [
        setting(random.Random(5).sample(item.rows, len(item.rows)), **item.parameters) for item in path
    ]
    files = [
        calibrate(collect_evidence([rows]), CalibrationSettings()).policy.to_dict()
        for rows in (path, shuffled)
    ]
    assert json.dumps(files[0]) == json.dumps(files[1])


def test_too_few_questions_give_the_full_budget_and_say_how_many_are_needed():
    """113 questions without a loss are one too few for 2% at 90%, 114 are enough."""
    few = calibrate(collect_evidence([make_path([0], number=113)]), CalibrationSettings())
    assert few.certificate.is_run_to_cap
    assert few.policy.name == "even"
    assert few.policy.parameters == {}
    assert few.certificate.tokens_saved.share == 0
    assert few.certificate.realised_risk == 0
    assert any("113 questions" in words and "at least 114" in words for words in few.certificate.warnings)
    enough = calibrate(collect_evidence([make_path([0], number=114)]), CalibrationSettings())
    assert not enough.certificate.is_run_to_cap
    assert enough.certificate.warnings == ()


def test_an_impossible_risk_gives_the_full_budget():
    settings = CalibrationSettings(risk=1e-6, confidence=0.999)
    certificate = calibrate(collect_evidence([make_path([0])]), settings, kind="depth").certificate
    assert certificate.is_run_to_cap
    assert certificate.num_needed > 6_000_000
    assert len(certificate.warnings) == 2


def test_a_setting_that_costs_more_than_the_full_budget_is_not_chosen():
    """Probes can cost more than they save."""
    dear = [setting([row(i, spent=210) for i in range(200)])]
    certificate = calibrate(collect_evidence([dear]), CalibrationSettings()).certificate
    assert certificate.is_run_to_cap
    assert "no setting saves tokens" in certificate.warnings[0]


def test_draws_of_one_question_count_as_one():
    """20 questions of 100 draws are 20 questions: not enough, whatever the 2,000 rows look like."""
    rows = [row(index, draw=draw) for index in range(20) for draw in range(100)]
    certificate = calibrate(collect_evidence([[setting(rows)]]), CalibrationSettings()).certificate
    assert certificate.num_questions == 20
    assert certificate.is_run_to_cap
    assert certificate.bound == "hoeffding_bentkus"


def test_paired_losses_do_not_let_wins_pay_and_accuracy_does():
    rows = [row(i, lost=i < 6, won=i >= 394, right=i < 394) for i in range(400)]
    evidence = collect_evidence([[setting(rows)]])
    paired = calibrate(evidence, CalibrationSettings(risk=0.03)).certificate
    drop = calibrate(evidence, CalibrationSettings(risk=0.03, loss="accuracy")).certificate
    assert paired.realised_risk == pytest.approx(0.015)
    assert drop.realised_risk == pytest.approx(0.0)
    assert drop.bound == "betting"
    assert drop.upper_bound < 0.03


def test_groups_must_each_hold():
    """The losses all fall on the hard questions: fine over all, not within them."""
    rows = [row(i, lost=i < 6, group="hard" if i < 150 else "easy") for i in range(400)]
    evidence = collect_evidence([[setting(rows)]])
    assert not calibrate(evidence, CalibrationSettings(risk=0.04)).certificate.is_run_to_cap
    by_group = calibrate(evidence, CalibrationSettings(risk=0.04, by_group=True)).certificate
    assert by_group.is_run_to_cap
    wide = calibrate(evidence, CalibrationSettings(risk=0.09, by_group=True)).certificate
    assert not wide.is_run_to_cap
    assert {name: group.num_questions for name, group in wide.groups.items()} == {"easy": 250, "hard": 150}
    assert wide.groups["hard"].realised_risk == pytest.approx(0.04)
    assert wide.groups["hard"].upper_bound > stats.beta.ppf(0.9, 7, 144)  # both bounds hold at once
    assert wide.p_value == pytest.approx(wide.groups["hard"].p_value)


def test_a_group_that_is_too_small_is_named():
    rows = [row(i, group="rare" if i < 10 else "common") for i in range(200)]
    certificate = calibrate(
        collect_evidence([[setting(rows)]]), CalibrationSettings(by_group=True)
    ).certificate
    assert certificate.is_run_to_cap
    assert any("Group 'rare' has 10 questions" in words for words in certificate.warnings)


def test_a_pilot_orders_the_settings_and_is_left_out_of_the_test():
    """The path starts with a setting that fails: walked as it stands it certifies nothing, by pilot the good one."""
    path = make_path([40, 0, 0], number=400)
    evidence = collect_evidence([path])
    assert calibrate(evidence, CalibrationSettings()).certificate.is_run_to_cap
    piloted = calibrate(evidence, CalibrationSettings(pilot=0.25))
    assert piloted.certificate.num_questions == 300
    assert piloted.policy.parameters == {"detect_at": 8}


def test_conformal_risk_control_promises_the_mean():
    evidence = collect_evidence([make_path([0, 0, 3, 30], number=200)])
    certificate = calibrate(evidence, CalibrationSettings(method="crc")).certificate
    assert certificate.confidence is None
    assert certificate.p_value is None
    assert certificate.num_certified == 3
    assert certificate.num_needed == 49
    assert any("on average" in words for words in certificate.warnings)


def test_conformal_risk_control_says_where_losses_fall():
    evidence = collect_evidence([make_path([3, 0], number=200)])
    certificate = calibrate(evidence, CalibrationSettings(method="crc", risk=0.05)).certificate
    assert any("running maximum" in words for words in certificate.warnings)


def test_bootstrap_intervals_are_seeded_and_hold_the_share():
    rng = random.Random(1)
    rows = [row(i, spent=rng.randrange(20, 200)) for i in range(200)]
    evidence = collect_evidence([[setting(rows)]])
    saved = calibrate(evidence, CalibrationSettings()).certificate.tokens_saved
    assert saved == calibrate(evidence, CalibrationSettings()).certificate.tokens_saved
    assert saved.low < saved.share < saved.high
    assert saved.high - saved.low < 0.1


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no replayed question"),
        ([[setting([])]], "no replayed question"),
        ([[setting([row(0)])]], "1 question"),
        ([[setting([row(i, right=False) for i in range(9)])]], "right on none of 9"),
        ([[setting([row(i, right=i == 0) for i in range(99)])]], "Choose a smaller risk"),
        ([[setting([row(0), row(0)])]], "draw 0 twice"),
        ([[setting([row(0), row(1)]), setting([row(0), row(2)])]], "different questions"),
        ([[setting([row(0), row(1)]), setting([row(0), row(1, full=300)])]], "full budgets"),
    ],
)
def test_bad_evidence_is_named(paths, message):
    with pytest.raises(InputError, match=message):
        calibrate(collect_evidence(paths), CalibrationSettings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 0.0}, "risk = 0.0"),
        ({"risk": 1}, "risk = 1"),
        ({"risk": float("nan")}, "nan"),
        ({"risk": "2%"}, "2%"),
        ({"confidence": 1.5}, "confidence = 1.5"),
        ({"loss": "cross"}, "Known: accuracy, paired"),
        ({"method": "guess"}, "Known: bonferroni, crc, ltt"),
        ({"pilot": 1.0}, r"pilot = 1\.0"),
        ({"method": "crc", "loss": "accuracy"}, "Choose 'ltt'"),
        ({"method": "crc", "pilot": 0.5}, "Choose 'ltt'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        CalibrationSettings(**options)


def test_a_certificate_by_group_needs_groups():
    with pytest.raises(InputError, match="'q0' has no group"):
        calibrate(collect_evidence([make_path([0])]), CalibrationSettings(by_group=True))


def test_a_pilot_must_leave_questions():
    with pytest.raises(InputError, match="none would be left"):
        select(collect_evidence([make_path([0], number=5)]), CalibrationSettings(pilot=0.9))


def test_certificates_hold_on_new_questions():
    """Simulated end to end: four settings whose true risks are 0.5, 1, 2.2 and 4%; 2% is promised at 90%. Of 200
    calibrations more than 34 choose a setting whose true risk is too high by chance with a probability below 1e-3
    where the rate is the promised 10% itself (binomial)."""
    assert stats.binom.sf(34, 200, 0.1) < 1e-3
    rng, false, used = random.Random(2), 0, 0
    for _ in range(200):
        points = [rng.random() for _ in range(250)]  # a question is lost from its own point on
        path = [
            setting(
                [row(i, lost=point < risk, spent=150 - position) for i, point in enumerate(points)],
                position=position,
            )
            for position, risk in enumerate((0.005, 0.01, 0.022, 0.04))
        ]
        chosen = select(collect_evidence([path]), CalibrationSettings()).chosen
        false += chosen is not None and chosen.position >= 2
        used += chosen is not None
    assert false <= 34
    assert used > 100
