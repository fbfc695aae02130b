"""The page: nothing from outside, everything escaped, every figure in it."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.report_data import Prices, gather_report
from hf_dynasor.evaluation.report_on import PLANS, list_jobs, write_trace_run
from hf_dynasor.evaluation.report_page import render_html, render_json, render_markdown
from hf_dynasor.evaluation.report_pictures import draw_pictures
from hf_dynasor.evaluation.report_record import record_trace
from hf_dynasor.recipe import Recipe
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.evaluation.report_kit import NASTY, write_votes

VOTES = ("11111111", "12111211", "22222222", "22111111", "22222111", "33331111")


class Tags(HTMLParser):
    """Every tag with its attributes; the text; void elements apart."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    parsed = Tags()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == [], "everything that is opened is closed"
    return parsed


@pytest.fixture
def data(tmp_path):
    return gather_report([str(write_votes(tmp_path / "run", *VOTES))], prices=Prices(net=2.0, currency="€"))


def test_the_page_loads_and_runs_nothing(data):
    page = render_html(data, title="T", command="hf-dynasor report run")
    parsed = parse(page)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "object", "form"}
    sources = [attrs["src"] for tag, attrs in parsed.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    for source in sources:
        picture = base64.b64decode(source.partition(",")[2]).decode()
        assert picture.startswith("<svg")
        assert not re.search(r'(?:href|src)="(?!#)', picture)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "default-src 'none'" in page


def test_pictures_and_tables_can_be_read_without_seeing_them(data):
    parsed = parse(render_html(data, title="T"))
    assert all(attrs.get("alt") for tag, attrs in parsed.tags if tag == "img")
    tables = [tag for tag, _ in parsed.tags if tag == "table"]
    captions = [tag for tag, _ in parsed.tags if tag == "caption"]
    assert len(captions) == len(tables) >= 3
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in parsed.tags if tag == "th")
    assert ("html", {"lang": "en"}) in parsed.tags


def test_questions_answers_and_names_are_text_and_never_markup(tmp_path):
    engine = ScriptedEngine(lambda request: Reply(text=f"So \\boxed{{{NASTY}}}.", num_tokens=9))
    questions = [Question(id=f"{NASTY}{i}", question=f"{NASTY} {i}", answer=NASTY) for i in range(3)]
    recipe = Recipe(budget=6, policy="even", seed=None, answer_format="text")
    record_trace(tmp_path / "run" / "trace.jsonl", questions, recipe, engine)
    write_trace_run(tmp_path / "run", model=f"m {NASTY}", dataset=f"d {NASTY}")
    data = gather_report([str(tmp_path / "run")])
    page = render_html(data, title=NASTY, command=NASTY)
    parsed = parse(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script" not in page
    assert NASTY in "".join(parsed.text), "and it is shown as it is"
    assert "{{ 7*7 }}" in "".join(parsed.text)
    table = render_markdown(data, title=NASTY)
    assert "<script" not in table.replace("\\<script", "")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {13}, "no cell ends early"


def test_the_table_has_every_setting_with_its_intervals(data):
    (group,) = data.groups
    budgets = {(row.setting.key.policy, row.setting.key.budget) for row in group.rows}
    assert {("even", budget) for budget in range(1, 9)} <= budgets
    assert {policy for policy, _ in budgets} == {
        "even",
        "sc/math",
        "adaptive_consistency",
        "window",
        "forecast",
    }
    table = render_markdown(data, title="T")
    assert table.count("\n| self_consistency") == len(group.rows)
    full = next(row for row in group.rows if row.setting.key.policy == "even" and row.is_last)
    low, high = full.summary.accuracy_interval
    assert f"{100 * full.summary.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})" in table


def test_cost_is_tokens_times_price(data):
    row = data.groups[0].rows[0]
    assert row.cost == pytest.approx(row.summary.net_tokens * 2.0 / 1e6 * 1000)
    assert f"€{row.cost:.3f}" in render_html(data, title="T")
    with_prompts = Prices(net=2.0, prompt=1.0)
    assert with_prompts.cost(row.summary) == pytest.approx(row.cost + row.summary.prompt_tokens / 1000)
    with pytest.raises(ConfigurationError, match="prices of 0 or more"):
        Prices(net=-1)


def test_what_stopped_early_and_was_wrong_is_listed_with_what_the_full_budget_said(data):
    lost = [
        item for item in data.groups[0].early_wrong if item.is_lost and item.setting.key.policy == "window"
    ]
    # `22222111` is wrong to its end; `33331111` ties at the end, and the first seen wins: nothing to lose there.
    assert lost == []
    wrong = {item.outcome.id for item in data.groups[0].early_wrong if item.setting.key.policy == "sc/math"}
    assert wrong == {"q2", "q4"}


def test_an_early_stop_that_cost_the_answer_is_told_apart(tmp_path):
    data = gather_report([str(write_votes(tmp_path / "run", "222221111111", "111111111111"))])
    (item,) = [item for item in data.groups[0].early_wrong if item.setting.key.policy == "sc/math"]
    assert item.is_lost
    assert (item.outcome.answer, item.even.answer) == ("2", "1")
    assert "1 of them would have been right" in " ".join(
        render_html(data, title="T", has_pictures=False).split()
    ) or any(other.is_lost for other in data.groups[0].early_wrong)


def test_the_json_has_the_rows_of_the_page(data):
    rows = json.loads(render_json(data))["rows"]
    assert len(rows) == len(data.groups[0].rows)
    static = next(row for row in rows if row["policy"] == "sc/math" and row["budget"] == 8)
    assert static["against_even"]["num_questions"] == 6
    assert static["against_even"]["saved"] > 0
    assert static["num_seeds"] == 1


def test_the_same_runs_give_the_same_page(data, tmp_path):
    again = gather_report([str(tmp_path / "run")], prices=Prices(net=2.0, currency="€"))
    assert render_html(data, title="T") == render_html(again, title="T")


def test_each_program_and_each_reading_has_its_picture(data):
    assert set(draw_pictures(data.groups[0])) == {
        "programs",
        "policies of self_consistency, T = 0.7",
        "tokens saved",
        "needs of self_consistency, T = 0.7",
        "certaindex of self_consistency, T = 0.7",
    }


def test_questions_beyond_the_most_are_counted_as_left_out(data):
    page = render_html(data, title="T", max_questions=2, has_pictures=False)
    assert "4 more are left out" in page


def test_runs_of_two_models_stand_apart(tmp_path):
    one = write_votes(tmp_path / "one", "1111", "2222", model="first")
    two = write_votes(tmp_path / "two", "1111", "1111", model="second")
    data = gather_report([str(one), str(two)])
    assert [(group.model, group.rows[0].summary.accuracy) for group in data.groups] == [
        ("first", 0.5),
        ("second", 1.0),
    ]


def test_an_unknown_policy_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigurationError, match="static"):
        gather_report([str(write_votes(tmp_path / "run", "11", "12"))], policies=["nothing"])


def test_a_plan_lists_each_program_once_a_seed_and_trees_once_a_width():
    names = [job.name for job in list_jobs(PLANS["embedded"], (), (1, 4, 8), 2)]
    assert names.count("self_consistency-8-seed0") == 1
    assert {"rebase-4-seed0", "rebase-8-seed1", "beam-4-seed1", "mcts-8-seed1"} <= set(names)
    assert {"chain_of_thought-512-seed0", "chain_consistency-3-seed1"} <= set(names), "knobs of their own"
    assert len(names) == 2 * (3 + 2 * 2 + 3 + 3)
    with pytest.raises(ConfigurationError, match="self_consistency"):
        list_jobs(PLANS["embedded"], ["nothing"], (1,), 1)
    with pytest.raises(ConfigurationError, match="at least one of each"):
        list_jobs(PLANS["embedded"], (), (), 1)


def test_a_run_under_a_policy_alone_has_a_picture_too(tmp_path):
    folder = write_votes(tmp_path / "run", "1111", "1212")
    (folder / "trace.jsonl").unlink()
    path = folder / "all_results.json"
    path.write_text(path.read_text().replace('"policy": "even"', '"policy": "static"'))
    data = gather_report([str(folder)])
    assert [row.setting.key.policy for row in data.groups[0].rows] == ["static"]
    assert set(draw_pictures(data.groups[0])) == {"programs"}


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(InputError, match="Found no run"):
        gather_report([str(tmp_path)])
