"""Generator of arithmetic questions for the embedded reasoner, from trivial (level 1) to out of reach (level 8).

Knows nothing about models. Training and test questions are apart: the split of a problem is decided by a hash of
its arithmetic (the operations on numbers, whatever the wording), so no wording of a test question can be a
training question, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hf_dynasor.embedded.expressions import write_expression
from hf_dynasor.embedded.levels import LEVELS
from hf_dynasor.embedded.steps import Step, line
from hf_dynasor.embedded.word_problems import write_word_problem

Split = Literal["train", "test"]

BOXED_SUFFIX = "Please reason step by step, and put your final answer within \\boxed{}."
TEST_SHARE = 8
_EXPRESSION_SHARE = 0.5
_SUFFIX_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with its right answer.

    Args:
        id: Names split, seed and position, such as `test-0-17`.
        question: What is asked, as a user would type it.
        answer: The right answer in decimal digits, never negative.
        level: Difficulty, a key of `LEVELS`.
        steps: The operations that lead to the answer, in the order of a chain of thought.
    """

    id: str
    question: str
    answer: str
    level: int
    steps: tuple[Step, ...]


def generate_problems(
    num_problems: int,
    *,
    seed: int,
    levels: Sequence[int] = tuple(LEVELS),
    split: Split = "train",
) -> list[Problem]:
    """Returns problems that depend on the arguments alone; the levels take turns.

    Args:
        num_problems: How many, at least 1.
        seed: Two seeds give two independent lists; the same seed gives another list for each split.
        levels: Levels to take in turn; a level may be named more than once to weigh it.
        split: `"test"` problems never occur among `"train"` problems, under any seed.

    Raises:
        ValueError: If a level or the split is unknown, or there is nothing to generate.

    Examples:

    ```python
    >>> problems = generate_problems(8, seed=0, split="test")
    >>> [problem.level for problem in problems]
    [1, 2, 3, 4, 5, 6, 7, 8]

    ```
    """
    _check(num_problems, levels, split)
    rng = random.Random(f"{split}-{seed}")
    return [
        draw_problem(rng, level=levels[index % len(levels)], split=split, id=f"{split}-{seed}-{index}")
        for index in range(num_problems)
    ]


def draw_problem(rng: random.Random, *, level: int, split: Split, id: str = "") -> Problem:
    """Returns the next problem of a level and split from a random generator."""
    while True:
        write = write_expression if rng.random() < _EXPRESSION_SHARE else write_word_problem
        question, steps = write(rng, LEVELS[level])
        if split_of(steps) == split:
            break
    if rng.random() < _SUFFIX_SHARE:
        question = f"{question}{rng.choice((' ', chr(10)))}{BOXED_SUFFIX}"
    return Problem(id=id, question=question, answer=str(steps[-1].result), level=level, steps=steps)


def split_of(steps: Sequence[Step]) -> Split:
    """Returns the split that a problem with these steps belongs to: one in `TEST_SHARE` is for tests."""
    arithmetic = ";".join(line(step) for step in steps)
    digest = hashlib.sha256(arithmetic.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


def _check(num_problems: int, levels: Sequence[int], split: str) -> None:
    if num_problems < 1:
        raise ValueError(f"Got {num_problems = } but expected at least 1")
    if split not in ("train", "test"):
        raise ValueError(f"Got {split = !r} but expected 'train' or 'test'")
    unknown = sorted(set(levels) - set(LEVELS))
    if unknown or not levels:
        raise ValueError(f"Got {levels = } but expected one or more of {sorted(LEVELS)}")
