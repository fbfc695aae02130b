"""Where a probed answer ends, and where a sentence does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.stopping.markers import ends_sentence
from hf_dynasor.stopping.texts import PASTED_ANSWER, PROBE_SUFFIXES, find_answer_end, is_closed_answer


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("12}", 2),
        (r"\frac{1}{2}} \]", 11),
        ("12", None),
        ("{1", None),
        ("12\n and", 2),
        ("\n12", None),
        (r"\{1,2\}}", 7),
        ("", None),
        ("}", 0),
    ],
)
def test_an_answer_ends_at_its_unpaired_brace_or_a_newline(text, end):
    assert find_answer_end(text) == end


@given(st.text(alphabet="{}\\a\n", max_size=30))
def test_more_text_never_moves_an_end(text):
    end = find_answer_end(text)
    for extra in ("}", "\n", "x{"):
        if end is not None:
            assert find_answer_end(text + extra) == end


def test_only_a_brace_closes_an_answer():
    assert is_closed_answer("12}.")
    assert not is_closed_answer("12\n")
    assert not is_closed_answer("12")


def test_every_probe_suffix_opens_a_box():
    assert all(text.endswith("{") for text in PROBE_SUFFIXES.values())
    assert PASTED_ANSWER.replace("{answer}", "12").endswith(r"\boxed{12}")


def test_a_decimal_point_is_no_boundary():
    assert not ends_sentence("it is 3.")
    assert ends_sentence("it is so.")
    assert ends_sentence("it is 3.\n\n")
