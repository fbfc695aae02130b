"""Sweeps, fitted curves, compared signals and pictures."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.fitting import choose_lossless, collect_readings, count_needed
from hf_dynasor.evaluation.plots import plot_frontier, plot_needs, plot_signals, plot_thresholds
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.prefixes import ProgramPrefixes
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.samples import SampleRun, read_samples
from hf_dynasor.evaluation.signals_compared import compare_signals, kendall
from hf_dynasor.evaluation.sweep import average_by_question, fit_spec, list_prefixes, sweep
from hf_dynasor.evaluation.trace_sets import OpenTraces, replay
from tests.evaluation.kit import record_votes


def draw_votes(seed, num=30, budget=12):
    """Questions from easy to hopeless: the right answer's share runs from 1 down to 0."""
    rng = random.Random(seed)
    return [
        "".join("1" if rng.random() < 1 - number / num else rng.choice("2345") for _ in range(budget))
        for number in range(num)
    ]


@pytest.fixture(scope="module")
def traces():
    return OpenTraces(kind="program", programs=tuple(record_votes(*draw_votes(1))))


@pytest.fixture(scope="module")
def others():
    return OpenTraces(kind="program", programs=tuple(record_votes(*draw_votes(2))))


def test_a_sweep_has_a_row_for_each_policy_and_budget(traces):
    rows = sweep(traces, ["even", "static", "forecast"], [6, 12], draws=3)
    assert [(row.policy, row.budget) for row in rows] == [
        (policy, budget) for budget in (6, 12) for policy in ("even", "static", "forecast")
    ]
    even = rows[0].to_dict()
    assert (even["saved"], even["sequential_saved"], even["difference"], even["lost"]) == (0, 0, 0, 0)
    assert even["num_questions"] == 30
    for row in rows:
        assert row.summary == summarise(replay(traces, row.policy, budget=row.budget, draws=3))


def test_a_curve_is_fitted_on_other_traces_and_loses_nothing_there(traces, others):
    for name in ("initial_curve", "dynamic_curve"):
        spec = fit_spec(parse_policy_spec(name), others)
        summary = summarise(replay(others, spec))
        assert summary.accuracy >= summary.baseline_accuracy
        assert summary.net_tokens < summary.baseline_tokens
        row = sweep(traces, [name], fit_on=others)[0]
        assert (row.policy, dict(row.parameters)) == (name, dict(spec.parameters))


def test_a_curve_with_nothing_to_fit_it_on_is_refused(traces):
    with pytest.raises(ConfigurationError, match="got no points"):
        sweep(traces, ["dynamic_curve"])


def test_a_curve_is_not_fitted_where_nothing_is_solved():
    hopeless = OpenTraces(kind="program", programs=tuple(record_votes("22222222", "34343434")))
    with pytest.raises(InputError, match="None of the questions is solved"):
        fit_spec(parse_policy_spec("initial_curve"), hopeless)


def test_the_walk_through_a_program_is_what_the_fast_replay_counts(traces):
    for trace in traces.programs[::7]:
        walk, run = ProgramPrefixes(trace), SampleRun(read_samples(trace))
        assert walk.knob == run.knob
        for total in range(1, 13):
            assert walk.read(total) == run.read(total)
            assert walk.is_right(total) == run.is_right(total)
            assert walk.count_net_tokens(total) == run.count_net_tokens(total)


@pytest.mark.parametrize(
    ("votes", "needed"),
    [("1111", 1), ("2111", 3), ("1221", 4), ("2222", None), ("1222", None), ("2211", None)],
)
def test_the_need_of_a_question_is_where_its_vote_is_right_for_good(votes, needed):
    """A tie goes to the answer seen first."""
    assert count_needed(SampleRun(read_samples(record_votes(votes)[0]))) == needed


def test_readings_are_of_solvable_questions_only():
    runs = [SampleRun(read_samples(trace)) for trace in record_votes("22111111", "22222222")]
    assert list(collect_readings(runs, detect_at=4)) == [(0.5, 5)]
    repeated = list(collect_readings(runs, detect_at=4, is_repeated=True))
    assert [needed for _, needed in repeated] == [5, 5, 5, 5]


def test_the_lossless_choice_saves_most_of_those_that_lose_nothing(traces):
    specs = [PolicySpec(name="static", parameters={"detect_at": n}) for n in (2, 4, 8)]
    summaries = {spec.title: summarise(replay(traces, spec)) for spec in specs}
    chosen = choose_lossless(specs, lambda spec: summaries[spec.title])
    losses = {title: max(0, item.baseline_accuracy - item.accuracy) for title, item in summaries.items()}
    best = min(losses.values())
    assert losses[chosen.title] == best
    assert summaries[chosen.title].net_tokens == min(
        summaries[title].net_tokens for title, loss in losses.items() if loss == best
    )


def test_draws_of_a_question_are_averaged_before_they_are_compared(traces):
    before, after = average_by_question(replay(traces, "static:detect_at=2", draws=4))
    assert len(before) == len(after) == 30
    assert {round(4 * value) / 4 for value in after} == set(after)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_kendall_is_tau_b(pairs):
    first, second = zip(*pairs, strict=True)
    ours = kendall(first, second)
    if ours is None:
        assert len(set(first)) == 1 or len(set(second)) == 1
    else:
        assert ours == pytest.approx(stats.kendalltau(first, second).statistic, abs=1e-12)


def test_certain_signals_go_with_few_samples_needed(traces):
    compared = {item.signal: item for item in compare_signals(list_prefixes(traces, draws=3))}
    assert set(compared) == {"entropy", "agreement", "length"}
    assert compared["entropy"].pearson < -0.3
    assert compared["entropy"].kendall < -0.3
    assert abs(compared["length"].pearson) < 0.5


def test_signals_need_solved_questions():
    runs = [SampleRun(read_samples(trace)) for trace in record_votes("1111", "2222")]
    with pytest.raises(InputError, match="Got 1 solved"):
        compare_signals(runs)


def test_pictures_are_drawn(traces, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    runs = list_prefixes(traces)
    plot_frontier(sweep(traces, ["even", "static"], [6, 12]), tmp_path / "frontier.png", title="Policies")
    plot_needs(runs, tmp_path / "needs.png")
    plot_thresholds(lambda spec: summarise(replay(traces, spec)), tmp_path / "thresholds.svg")
    plot_signals(runs, tmp_path / "signals.png")
    for name in ("frontier.png", "needs.png", "signals.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "thresholds.svg").read_bytes()


def test_a_picture_that_cannot_be_written_says_so(traces, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    rows = sweep(traces, ["even"])
    with pytest.raises(InputError, match="Cannot write"):
        plot_frontier(rows, tmp_path / "missing" / "frontier.png")
    with pytest.raises(InputError, match=r"ends in \.png"):
        plot_frontier(rows, tmp_path / "frontier.qqq")


def test_a_picture_of_no_reading_is_refused(tmp_path):
    runs = [SampleRun(read_samples(trace)) for trace in record_votes("2222")]
    with pytest.raises(InputError, match="nothing to draw"):
        plot_needs(runs, tmp_path / "needs.png")
