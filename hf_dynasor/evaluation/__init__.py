"""Questions in, accuracy and net tokens out."""

from hf_dynasor.evaluation.evaluate import (
    EvaluationReport,
    QuestionResult,
    estimate_full_tokens,
    evaluate,
)
from hf_dynasor.evaluation.questions import (
    BrokenLine,
    Question,
    QuestionFile,
    parse_questions,
    read_questions,
)
from hf_dynasor.evaluation.statistics import PairedDifference, paired_difference, wilson_interval

__all__ = [
    "BrokenLine",
    "EvaluationReport",
    "PairedDifference",
    "Question",
    "QuestionFile",
    "QuestionResult",
    "estimate_full_tokens",
    "evaluate",
    "paired_difference",
    "parse_questions",
    "read_questions",
    "wilson_interval",
]
