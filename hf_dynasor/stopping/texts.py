"""The texts that are forced into a chain of thought; programs force the same ones, so they live in `answers`."""

from hf_dynasor.answers.elicitation import (
    EXIT_CLOSINGS,
    EXIT_PROMPT,
    GUIDED_PROMPT,
    PASTED_ANSWER,
    PROBE_SUFFIXES,
    find_answer_end,
    is_closed_answer,
)

__all__ = [
    "EXIT_CLOSINGS",
    "EXIT_PROMPT",
    "GUIDED_PROMPT",
    "PASTED_ANSWER",
    "PROBE_SUFFIXES",
    "find_answer_end",
    "is_closed_answer",
]
