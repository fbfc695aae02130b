"""Finished samples, and how probable the answer in one is."""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.answers import FoundAnswer
from hf_dynasor.certaindex import answer_probability
from hf_dynasor.core import Completion, FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One finished path.

    Args:
        index: Its place among the program's samples.
        text: What was generated.
        answer: The final answer that it states; `None` where it states none.
        probability: Geometric mean probability of the answer's tokens, where known.
        num_tokens: Tokens generated.
        finish_reason: How it ended.
        reward: What it is worth, in [0, 1], where it was rated.
    """

    index: int
    text: str
    answer: str | None
    probability: float | None
    num_tokens: int
    finish_reason: FinishReason
    reward: float | None = None


def read_probability(completion: Completion, found: FoundAnswer | None) -> float | None:
    """Geometric mean probability of the tokens that spell the answer where it was found."""
    if found is None or completion.logprobs is None or completion.offsets is None:
        return None
    borders = [*completion.offsets, len(completion.text)]
    inside = [
        logprob
        for logprob, left, right in zip(completion.logprobs, borders[:-1], borders[1:], strict=True)
        if left < found.end and right > found.start
    ]
    return answer_probability(inside)
