"""Question files: a broken line is told with its number and the rest is read."""

import json

import pytest

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation import parse_questions, read_questions


def line(**fields):
    return json.dumps({"id": "a", "question": "2+2?", "answer": "4"} | fields)


def test_broken_lines_are_told_with_their_numbers_and_the_rest_is_kept():
    file = parse_questions(
        [line(), "{oops", "", "[1]", line(id="b", question=" "), line(id="c", answer=None), line(id="d")]
    )
    assert [question.id for question in file.questions] == ["a", "d"]
    assert [broken.number for broken in file.broken_lines] == [2, 4, 5, 6]
    assert [
        word in str(broken)
        for word, broken in zip(("not JSON", "object", "question", "answer"), file.broken_lines, strict=True)
    ] == [True] * 4


def test_an_id_used_twice_is_a_broken_line():
    file = parse_questions([line(), line()])
    assert "unique" in file.broken_lines[0].reason


def test_numbers_are_answers_and_truth_values_are_not():
    file = parse_questions([line(answer=4), line(id="b", answer=2.5), line(id="c", answer=True)])
    assert [question.answer for question in file.questions] == ["4", "2.5"]
    assert len(file.broken_lines) == 1


def test_lines_without_an_id_are_named_by_their_number():
    assert parse_questions(['{"question": "q", "answer": "1"}']).questions[0].id == "line-1"


def test_a_file_without_questions_is_refused():
    with pytest.raises(InputError, match=r"no question in input \(1 broken lines; first: line 1"):
        parse_questions(["oops"])
    with pytest.raises(InputError, match="no question"):
        parse_questions([])


@pytest.mark.parametrize("make", ["missing", "folder", "binary"])
def test_an_unreadable_file_is_refused_by_name(tmp_path, make):
    path = tmp_path / "questions.jsonl"
    if make == "folder":
        path.mkdir()
    if make == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"questions\.jsonl"):
        read_questions(path)


@pytest.mark.parametrize(
    "bad",
    [
        "[" * 100_000,
        '{"question": "q", "answer": ' + "9" * 5000 + "}",
        line(question="\ud800"),
        line(answer=float("nan")),
    ],
    ids=["deep", "digits", "surrogate", "nan"],
)
def test_odd_lines_are_broken_lines_and_no_traceback(bad):
    file = parse_questions([line(), bad])
    assert [broken.number for broken in file.broken_lines] == [2]


def test_lines_are_split_at_newlines_alone_and_a_byte_order_mark_is_no_text(tmp_path):
    """str.splitlines also splits at U+2028, which may stand inside a text."""
    path = tmp_path / "questions.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + '{"question": "a\u2028b", "answer": "1"}\r\n'.encode()
        + b'{"question": "c", "answer": 2, "id": null}'
    )
    file = read_questions(path)
    assert [question.question for question in file.questions] == ["a\u2028b", "c"]
    assert file.questions[1].id == "line-2"
