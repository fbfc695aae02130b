"""Settings of a report: what is read, joined and compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.report_settings import (
    MEAN_TOKENS,
    Outcome,
    Setting,
    SettingKey,
    check_unique,
    find_runs,
    merge_settings,
    read_setting,
)
from hf_dynasor.evaluation.report_statistics import (
    compare,
    find_equal,
    measure_saving,
    summarise_setting,
)
from tests.evaluation.report_kit import write_votes

KEY = SettingKey(
    model="m", dataset="d", temperature=0.7, program="p", policy="even", budget=4, unit="samples"
)


def make_setting(rows, **changes):
    """A setting of `(id, seed, is right, net tokens)`."""
    outcomes = tuple(
        Outcome(id=id, seed=seed, is_right=is_right, net_tokens=tokens) for id, seed, is_right, tokens in rows
    )
    return Setting(key=replace(KEY, **changes), outcomes=outcomes, source="made here")


def test_a_run_is_found_by_its_folder_and_by_the_folder_that_holds_it(tmp_path):
    one, two = write_votes(tmp_path / "one", "11", "12"), write_votes(tmp_path / "two", "21", "22")
    assert [run.path for run in find_runs([one])] == [one]
    assert [run.path for run in find_runs([tmp_path])] == [one, two]
    assert len(find_runs([tmp_path, one])) == 2, "a run that is named twice is one run"


def test_a_folder_without_a_run_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"Found no run in .*all_results\.json"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="at least one folder"):
        find_runs([])


def test_a_run_becomes_a_setting_with_the_totals_of_its_folder(tmp_path):
    run = find_runs([write_votes(tmp_path / "one", "112", "122", "???")])[0]
    setting = read_setting(run)
    summary = summarise_setting(setting)
    assert summary.accuracy == pytest.approx(run.totals.accuracy, abs=1e-6) == pytest.approx(1 / 3, abs=1e-6)
    assert summary.net_tokens * 3 == pytest.approx(run.totals.net_tokens)
    assert setting.key.budget == 3
    assert setting.has_token_spread


def test_runs_with_other_seeds_are_one_setting_and_equal_outcomes_count_once():
    first = make_setting([("a", 0, True, 10)])
    second = make_setting([("a", 1, False, 20), ("a", 0, False, 99)])
    (joined,) = merge_settings([first, second])
    assert joined.seeds == (0, 1)
    assert [item.net_tokens for item in joined.outcomes] == [10, 20], "what stands first is kept"
    assert len(merge_settings([first, replace(second, key=replace(KEY, budget=8))])) == 2


def test_an_outcome_with_tokens_of_its_own_stands_before_one_that_shares_in_a_total():
    shared = replace(make_setting([("a", 0, True, 50)]), has_token_spread=False)
    own = make_setting([("a", 0, True, 10)])
    (joined,) = merge_settings([shared, own])
    assert [item.net_tokens for item in joined.outcomes] == [10]


def test_a_question_that_stands_twice_is_refused():
    outcome = Outcome(id="a", seed=0, is_right=True, net_tokens=1)
    with pytest.raises(InputError, match="'a' twice with seed 0"):
        check_unique((outcome, outcome), "here")


def test_seeds_of_one_question_are_no_more_questions():
    once = make_setting([(f"q{index}", 0, index % 2 == 0, 10 + index) for index in range(20)])
    thrice = make_setting(
        [(f"q{index}", seed, index % 2 == 0, 10 + index) for index in range(20) for seed in range(3)]
    )
    one, three = summarise_setting(once), summarise_setting(thrice)
    assert three.num_questions == 20
    assert three.num_seeds == 3
    assert three.accuracy_interval == pytest.approx(one.accuracy_interval)
    assert three.net_tokens_interval == pytest.approx(one.net_tokens_interval)


def test_where_only_totals_of_tokens_are_known_no_interval_is_claimed():
    setting = replace(make_setting([("a", 0, True, 10), ("b", 0, True, 10)]), has_token_spread=False)
    assert summarise_setting(setting).net_tokens_interval is None
    assert MEAN_TOKENS == "mean_of_part"


def test_a_comparison_is_paired_by_question_and_seed():
    even = make_setting([("a", 0, True, 100), ("b", 0, True, 100), ("c", 0, False, 100)])
    policy = make_setting([("c", 0, True, 50), ("a", 0, True, 50), ("b", 0, False, 50), ("x", 0, True, 1)])
    found = compare(policy, even)
    assert found.num_questions == 3
    assert found.difference.mean == pytest.approx(0.0)
    assert found.tokens.saved == pytest.approx(0.5)
    assert found.lost == pytest.approx(1 / 3)
    assert compare(make_setting([("a", 1, True, 1)]), even) is None, "nothing in common"


def test_equal_accuracy_is_judged_against_the_cheapest_even_budget_that_is_as_good():
    def even(budget, tokens, num_right):
        return make_setting([(f"q{i}", 0, i < num_right, tokens) for i in range(200)], budget=budget)

    evens = [even(1, 10, 100), even(4, 40, 150), even(8, 80, 151), even(16, 160, 151)]
    policy = make_setting([(f"q{i}", 0, i < 151, 30) for i in range(200)], policy="static", budget=16)
    found = find_equal(policy, evens)
    assert found.base_budget == 4, "half a point less is equal"
    assert found.tokens.saved == pytest.approx(0.25)
    better = make_setting([(f"q{i}", 0, i < 160, 30) for i in range(200)], policy="static", budget=16)
    assert find_equal(better, evens) is None, "no even budget is as good"


def test_an_even_budget_on_more_questions_is_judged_on_the_shared_ones():
    easy = [(f"q{i}", 0, True, 10) for i in range(20)]
    hard = [(f"h{i}", 0, False, 10) for i in range(60)]
    even = make_setting([*easy, *hard], budget=4)
    policy = make_setting([(id, seed, right, 5) for id, seed, right, _ in easy], policy="static", budget=16)
    found = find_equal(policy, [even])
    assert found is not None, "on the shared questions it is as accurate"
    assert found.tokens.saved == pytest.approx(0.5)


spent = st.lists(
    st.tuples(st.floats(1, 1e4), st.floats(0, 1)).map(lambda pair: (pair[0], pair[0] * pair[1])),
    min_size=2,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(spent)
def test_a_saving_is_one_less_the_ratio_of_the_sums_and_lies_in_its_interval(pairs):
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio = measure_saving(before, after)
    assert ratio.saved == pytest.approx(1 - sum(after) / sum(before))
    assert ratio.low - 1e-9 <= ratio.saved <= ratio.high + 1e-9
    doubled = measure_saving(before * 4, after * 4)
    assert doubled.saved == pytest.approx(ratio.saved)
    assert doubled.high - doubled.low <= ratio.high - ratio.low + 1e-9, "more questions, a narrower interval"


def test_a_saving_of_nothing_spent_is_refused():
    with pytest.raises(InputError, match="some above 0"):
        measure_saving([0.0, 0.0], [0.0, 0.0])
