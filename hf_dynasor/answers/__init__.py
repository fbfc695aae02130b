"""Answers: found in a completion, told apart, counted, graded. Knows no model, no program and no engine."""

from hf_dynasor.answers.extraction import extract_answer
from hf_dynasor.answers.grading import is_correct
from hf_dynasor.answers.grouping import AnswerGroup, AnswerGroups, group_answers, majority
from hf_dynasor.answers.keys import AnswerFormat, AnswerKey, canonicalise

__all__ = [
    "AnswerFormat",
    "AnswerGroup",
    "AnswerGroups",
    "AnswerKey",
    "canonicalise",
    "extract_answer",
    "group_answers",
    "is_correct",
    "majority",
]
