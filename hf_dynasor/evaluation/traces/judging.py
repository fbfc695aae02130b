"""Judges the answers of a replay with the judgement that was recorded, so that neither side gains by the grader.

A record says whether the full run was right, by a grader that is not ours. Where the two graders differ, grading
only the stopped answers with ours would credit the difference to the policy. So the record's word about the full
run holds for every answer that ours judges alike.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

from hf_dynasor.answers import is_correct
from hf_dynasor.answers.notation import tidy, unwrap
from hf_dynasor.answers.numeric import parse_number
from hf_dynasor.evaluation.traces.records import DepthTrace

MAX_ANSWER_CHARS = 300
"""Longer answers are cut before they are compared: they are loops, not answers."""


@lru_cache(maxsize=65536)
def read_key(answer: str | None) -> Hashable | None:
    r"""A quick key: equal for numbers of one value and for formulas of one spelling; `None` for no answer.

    It may tell apart what is the same (`x+1` and `1+x`) and never takes different answers for one.

    Examples:
        >>> read_key(r"\dfrac12") == read_key(r"\frac{1}{2}"), read_key("0.50") == read_key("1/2"), read_key(" ")
        (True, True, None)
    """
    text = tidy(unwrap((answer or "")[:MAX_ANSWER_CHARS]))
    number = parse_number(text)
    if number is not None:
        return number
    return "".join(text.split()) or None


def judge_depth(trace: DepthTrace, answer: str | None) -> bool:
    """Whether an answer of a chain is right, on the scale of the record of its full run.

    Args:
        trace: The chain; its record says whether the full run's answer was right.
        answer: The answer to judge; `None` is wrong.

    Returns:
        The record's word where the answer equals the full run's; our grader's otherwise, except that no answer
        is right that our grader takes for as right as a full run which the record calls wrong.
    """
    key = read_key(answer)
    if key is None:
        return False
    if key == read_key(trace.answer):
        return trace.is_correct
    if not _grade(answer, trace.reference):
        return False
    return trace.is_correct or not _grade(trace.answer, trace.reference)


@lru_cache(maxsize=65536)
def _grade(answer: str | None, reference: str) -> bool:
    return is_correct((answer or "")[:MAX_ANSWER_CHARS], reference)
