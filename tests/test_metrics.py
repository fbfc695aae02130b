"""The metric modules, through `evaluate.load(path)`: values by hand, cards that run, mistakes that are named."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest

from hf_dynasor.evaluation import wilson_interval
from hf_dynasor.evaluation.measures import save_at_equal_accuracy

evaluate = pytest.importorskip("evaluate", reason="needs the extra eval")

FOLDER = Path(__file__).parents[1] / "metrics"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a metric by its folder, its copies and caches in a folder of this test."""
    cache = tmp_path_factory.mktemp("metrics")
    return lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(cache))


def test_there_are_three():
    assert NAMES == ["certaindex_correlation", "slo_attainment", "token_to_accuracy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_ready_for_the_hub(name, load):
    card = (FOLDER / name / "README.md").read_text()
    assert card.startswith("---\n")
    assert {"app.py", "requirements.txt", f"{name}.py"} <= {path.name for path in (FOLDER / name).iterdir()}
    metric = load(name)
    assert metric.name == name
    assert metric.citation in card
    assert metric.description.strip()
    assert metric.inputs_description.partition("Examples:")[0].strip() in card


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_card_comes_to_what_it_says(name, load):
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / name / "README.md").read_text(), re.DOTALL)
    *lines, comment = code.replace(f'evaluate.load("metrics/{name}")', f'load("{name}")').strip().splitlines()
    tree = ast.parse("\n".join(lines).replace("import evaluate", ""))
    last = ast.Expression(tree.body.pop().value)
    names = {"load": load}
    exec(compile(tree, "card", "exec"), names)
    assert eval(compile(last, "card", "eval"), names) == ast.literal_eval(comment.removeprefix("# "))


def test_correlations_by_hand(load):
    """Readings 1, 2, 3, 4 against 2, 1, 4, 3: 4 pairs agree and 2 do not, and the covariance is 3 of 5."""
    found = load("certaindex_correlation").compute(predictions=[1, 2, 3, 4], references=[2, 1, 4, 3])
    assert found["pearson"] == pytest.approx(0.6)
    assert found["kendall"] == pytest.approx(2 / 6)
    assert found["num_pairs"] == 4
    assert 0 < found["pearson_p"] < 1


def test_ties_are_allowed_for_and_unknown_readings_left_out(load):
    """tau-b of (1,1), (1,2), (2,3): 2 pairs agree, one is tied in the readings; 2 / sqrt(2 * 3)."""
    found = load("certaindex_correlation").compute(predictions=[1, 1, 2, math.nan], references=[1, 2, 3, 9])
    assert found["kendall"] == pytest.approx(2 / math.sqrt(6))
    assert found["num_pairs"] == 3


def test_where_nothing_varies_there_is_no_correlation(load):
    found = load("certaindex_correlation").compute(predictions=[1, 1], references=[1, 2])
    assert (found["pearson"], found["kendall"]) == (None, None)
    with pytest.raises(ValueError, match="at least 2"):
        load("certaindex_correlation").compute(predictions=[1], references=[1])


def test_attainment_by_hand(load):
    """Four of five in time; ratios 0.5, 0.5, 1, 1, 2: 80% are met as it is, all at twice the deadlines."""
    metric = load("slo_attainment")
    latencies, deadlines = [1, 2, 3, 4, 10], [2, 4, 3, 4, 5]
    found = metric.compute(predictions=latencies, references=deadlines, target=0.8)
    assert (found["attainment"], found["num_missed"], found["is_met"], found["least_scale"]) == (
        0.8,
        1,
        True,
        1.0,
    )
    assert found["attainment_interval"] == pytest.approx(list(wilson_interval(4, 5)))
    assert metric.compute(predictions=latencies, references=deadlines, target=1.0)["least_scale"] == 2.0
    found = metric.compute(predictions=latencies, references=deadlines)
    assert (found["is_met"], found["least_scale"]) == (False, 2.0)


def test_a_program_that_never_ended_is_late(load):
    found = load("slo_attainment").compute(predictions=[math.inf, 1], references=[5, 5], target=1)
    assert (found["attainment"], found["least_scale"]) == (0.5, math.inf)


@pytest.mark.parametrize(
    ("latency", "deadline", "target"), [(-1, 1, 0.9), (1, 0, 0.9), (1, 1, 0), (math.nan, 1, 0.9)]
)
def test_times_that_cannot_be_are_refused(load, latency, deadline, target):
    with pytest.raises(ValueError, match="expected"):
        load("slo_attainment").compute(predictions=[latency], references=[deadline], target=target)


def compute_curve(load, **options):
    return load("token_to_accuracy").compute(
        predictions=["1", "0", "1", "1", " 1 ", "1", "0", "1"],
        references=["1"] * 8,
        tokens=[10, 30, 50, 70, 20, 40, 5, 5],
        settings=["a", "a", "b", "b", "new", "new", "cheap", "cheap"],
        **options,
    )


def test_the_curve_by_hand(load):
    """a: 20 tokens, 0.5; b: 60, 1.0; new: 30, 1.0; cheap: 5, 0.5. At 1.0 the baseline a-b takes 60."""
    found = compute_curve(load, baseline=["a", "b"], target_accuracy=0.75)
    saved = {point["setting"]: point["saved"] for point in found["curve"]}
    assert [point["setting"] for point in found["curve"]] == ["cheap", "a", "new", "b"]
    assert saved == pytest.approx({"cheap": 0.75, "a": 0.0, "new": 0.5, "b": 0.0})
    assert found["tokens_at_target"] == pytest.approx((5 + 30) / 2)
    assert saved["new"] == pytest.approx(save_at_equal_accuracy(30, 1.0, [(20, 0.5), (60, 1.0)]))
    (new,) = (point for point in found["curve"] if point["setting"] == "new")
    assert new["accuracy_interval"] == pytest.approx(list(wilson_interval(2, 2)))


def test_a_target_out_of_reach_has_no_tokens(load):
    found = load("token_to_accuracy").compute(
        predictions=["1", "0"], references=["1", "1"], tokens=[1, 1], settings=["a", "a"], target_accuracy=0.9
    )
    assert found["tokens_at_target"] is None


def test_mistakes_are_named(load):
    with pytest.raises(ValueError, match="'magic'"):
        compute_curve(load, baseline=["magic"])
    with pytest.raises(ValueError, match="target_accuracy"):
        compute_curve(load, target_accuracy=2)
