"""A drawing shows every piece, needs nothing else, and never runs what a model wrote."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import FinishReason, Prompt
from hf_dynasor.drawing import MAX_PIECES, draw_page, draw_svg
from hf_dynasor.drivers import run
from hf_dynasor.paths import PathRecord
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.testing import ScriptedEngine

SVG = "{http://www.w3.org/2000/svg}"


def piece(name, parent=None, **options):
    defaults = {"unit": 0, "text": f"step {name}", "num_tokens": 3, "finish_reason": FinishReason.STOP}
    return PathRecord(request_id=name, parent=parent, **defaults | options)


def read_boxes(svg):
    """Label -> (left, top) of every box."""
    boxes = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        boxes[text.text] = (float(rect.get("x")), float(rect.get("y")))
    return boxes


def test_children_stand_right_of_their_parents_and_side_by_side():
    paths = [piece("a"), piece("b", "a"), piece("c", "a"), piece("d")]
    boxes = read_boxes(draw_svg(paths))
    assert boxes["question"][0] < boxes["step a"][0] < boxes["step b"][0] == boxes["step c"][0]
    assert boxes["step b"][1] < boxes["step c"][1] < boxes["step d"][1]
    assert boxes["step a"][1] == pytest.approx((boxes["step b"][1] + boxes["step c"][1]) / 2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 20), st.text(max_size=12)), max_size=25))
def test_any_tree_of_any_texts_is_drawn_whole_without_overlap(rows):
    paths = [
        piece(f"n{index}", f"n{parent}" if 0 <= parent < index else None, text=text)
        for index, (parent, text) in enumerate(rows)
    ]
    root = ElementTree.fromstring(draw_svg(paths))
    corners = [
        (rect.get("x"), rect.get("y")) for group in root.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")
    ]
    assert len(corners) == len(set(corners)) == len(rows) + 1


def test_what_a_model_wrote_is_shown_and_not_run():
    evil = "</title></svg><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = draw_page(
        [piece("a", text=evil, answer="<b>4</b>")], title="<script>", header=["<i>"], rows=[["<u>"]]
    )
    assert not re.search(r"<(script|img|i|u|b)\b", page)
    assert "&lt;script&gt;" in page


def test_a_page_names_no_other_host():
    answer = run(
        SelfConsistency(Prompt.chat("2+2?"), budget=6), ScriptedEngine(["\\boxed{4}"] * 6), StaticThreshold()
    )
    page = answer.trace.to_html(title="2+2?")
    urls = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert urls == {"http://www.w3.org/2000/svg"}  # the name of the format, which nothing fetches
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(", page)
    assert page.count("step") == 0
    assert "1.000" in page


def test_too_many_pieces_are_left_out_and_told():
    paths = [piece(f"n{index}") for index in range(MAX_PIECES + 7)]
    page = draw_page(paths, title="many")
    assert "7 further pieces are not drawn" in page
    assert page.count("<text") == MAX_PIECES + 1


def test_a_trace_is_a_tuple_of_records():
    answer = run(SelfConsistency(Prompt.chat("2+2?"), budget=4), ScriptedEngine(["\\boxed{4}"] * 4), Even())
    assert answer.trace == tuple(answer.trace)
    assert answer.trace.paths == answer.paths
    assert answer.trace.to_svg().startswith("<svg")


def test_a_deep_chain_is_drawn():
    """Deeper than Python's stack."""
    paths = [piece(f"n{index}", f"n{index - 1}" if index else None) for index in range(1500)]
    assert draw_svg(paths).count("<path") == 1500
