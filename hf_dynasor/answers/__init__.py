"""Answers: found in a completion, told apart, counted, graded. Knows no model, no program and no engine."""

from hf_dynasor.answers.extraction import FoundAnswer, extract_answer, find_answer
from hf_dynasor.answers.grading import is_correct
from hf_dynasor.answers.groupers import EmbeddingGrouper, Grouper, KeyGrouper, OutputGrouper
from hf_dynasor.answers.grouping import AnswerGroup, AnswerGroups, group_answers, majority
from hf_dynasor.answers.keys import AnswerFormat, AnswerKey, canonicalise, check_format
from hf_dynasor.answers.sandbox import Sandbox

__all__ = [
    "AnswerFormat",
    "AnswerGroup",
    "AnswerGroups",
    "AnswerKey",
    "EmbeddingGrouper",
    "FoundAnswer",
    "Grouper",
    "KeyGrouper",
    "OutputGrouper",
    "Sandbox",
    "canonicalise",
    "check_format",
    "extract_answer",
    "find_answer",
    "group_answers",
    "is_correct",
    "majority",
]
