"""Peers in one table: the same samples for all, settings chosen elsewhere."""

from __future__ import annotations

import random

import pytest

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.peers import PEERS, Peer, choose_setting, compare_peers
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.report_replays import open_replay
from hf_dynasor.evaluation.report_settings import find_runs
from tests.evaluation.report_kit import write_votes


def draw_votes(num, seed, shares=(0.95, 0.7, 0.4, 0.2)):
    """Questions from easy to hard, ten samples each, `1` being right."""
    rng = random.Random(seed)
    return [
        "".join("1" if rng.random() < shares[index % len(shares)] else rng.choice("23") for _ in range(10))
        for index in range(num)
    ]


def open_votes(folder, votes, **options):
    write_votes(folder, *votes, **options)
    return open_replay(find_runs([folder])[0])


@pytest.fixture
def runs(tmp_path):
    test = open_votes(tmp_path / "test", draw_votes(40, 0))
    return test, tmp_path


def open_others(folder, votes):
    """A run of other questions: the same names would be the same questions."""
    write_votes(folder, *votes)
    for name in ("trace.jsonl", "predictions.jsonl"):
        path = folder / name
        path.write_text(path.read_text().replace('"id": "q', '"id": "other'))
    return open_replay(find_runs([folder])[0])


def test_every_peer_has_a_row_and_even_saves_nothing(runs):
    test, folder = runs
    rows = compare_peers([test], open_others(folder / "others", draw_votes(40, 1)), budget=10)
    assert {row.peer.name for row in rows} == {peer.name for peer in PEERS}
    even = next(row for row in rows if row.peer.name == "even")
    assert even.against_even.tokens.saved == 0
    for row in rows:
        assert row.against_even.num_questions == 40
        assert row.to_dict()["saved"] == pytest.approx(
            1 - row.summary.net_tokens / even.summary.net_tokens, abs=1e-3
        )


def test_questions_that_settings_are_chosen_on_are_never_judged_on(runs):
    test, _ = runs
    with pytest.raises(InputError, match="both to choose and to judge on"):
        compare_peers([test], test, budget=10)


def test_a_setting_that_loses_accuracy_where_it_is_chosen_is_not_chosen(tmp_path):
    # The first three samples agree on a wrong answer, the rest of the budget puts it right.
    run = open_votes(tmp_path / "run", ["2221111111", "1111111111", "1111111111"])
    bold, careful = (PolicySpec(name="window", parameters={"window": size}) for size in (3, 5))
    assert choose_setting([bold, careful], run, budget=10) == careful
    assert choose_setting([bold], run, budget=10) is None
    assert choose_setting([], run, budget=10) is None


def test_a_peer_without_a_published_setting_has_only_a_chosen_one(runs):
    test, folder = runs
    others = open_others(folder / "others", draw_votes(40, 1))
    window = PolicySpec(name="window", parameters={"window": 4})
    rows = compare_peers(
        [test], others, budget=10, peers=[Peer(name="p", published=None, candidates=(window,))]
    )
    assert [row.how for row in rows] in ([], ["chosen"])
