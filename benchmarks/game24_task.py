"""Game of 24: puzzles, solution walks, wrong walks, and whether a written path is a solution. Pure."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Sequence

GOAL = 24
LARGEST = 200
"""Walks whose results are larger are left out: every number is one token."""
SYMBOLS = "+-*/"
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+) \(left: ([\d ]+)\)")

Numbers = tuple[int, ...]


def list_puzzles() -> list[Numbers]:
    """Every four numbers from 1 to 13 that can be made 24 without fractions, negative or large numbers on the way."""
    fours = itertools.combinations_with_replacement(range(1, 14), 4)
    return [numbers for numbers in fours if is_solvable(numbers)]


def split_puzzles(num_test: int, seed: int) -> tuple[list[Numbers], list[Numbers]]:
    """Training and test puzzles; no set of numbers is in both."""
    puzzles = list_puzzles()
    random.Random(seed).shuffle(puzzles)
    return puzzles[num_test:], puzzles[:num_test]


@functools.cache
def is_solvable(numbers: Numbers) -> bool:
    """Whether the sorted numbers can be made 24: for training labels and tests only, never asked while searching."""
    if len(numbers) == 1:
        return numbers[0] == GOAL
    return any(is_solvable(tuple(sorted(left))) for _, left in list_moves(numbers))


def list_moves(numbers: Numbers) -> list[tuple[str, Numbers]]:
    """Every step that can be written from here, with what it leaves: the untouched numbers, then the result."""
    moves = []
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(number for place, number in enumerate(numbers) if place not in (i, j))
        for symbol in SYMBOLS:
            result = _combine(numbers[i], symbol, numbers[j])
            if result is not None and not (symbol in "+*" and i > j):
                moves.append((f"{numbers[i]}{symbol}{numbers[j]}={result}", (*rest, result)))
    return moves


def write_step(move: str, left: Numbers) -> str:
    """One step as the model writes it."""
    return f"{move} (left: {' '.join(map(str, left))})"


def walk(numbers: Numbers, rng: random.Random, *, stray: float) -> tuple[list[str], list[bool]]:
    """A path to its end, and for each of its steps whether 24 can still be reached.

    Args:
        numbers: The puzzle, in any order.
        rng: Draws the steps, evenly among those that stay solvable where there are any.
        stray: How often a step is drawn from all moves instead, and its result is written wrong in a third of these.
    """
    steps, labels, is_right = [], [], True
    while len(numbers) > 1:
        moves = list_moves(numbers)
        good = [move for move in moves if is_solvable(tuple(sorted(move[1])))]
        strays = rng.random() < stray or not good
        move, left = rng.choice(moves if strays else good)
        if strays and rng.random() < 1 / 3:
            wrong = max(1, min(LARGEST, left[-1] + rng.choice((-10, -2, -1, 1, 2, 10))))
            is_right &= wrong == left[-1]
            move, left = f"{move.split('=')[0]}={wrong}", (*left[:-1], wrong)
        steps.append(write_step(move, left))
        labels.append(is_right and is_solvable(tuple(sorted(left))))
        numbers = left
    return steps, labels


def is_solution(puzzle: str, text: str) -> bool:
    """Whether a path uses the puzzle's numbers, each once, calculates right, and ends at 24. Anybody can check that."""
    return _follow(puzzle, text.strip().split("\n\n"))[-1] == (GOAL,)


def label_steps(puzzle: str, steps: Sequence[str]) -> list[bool]:
    """For each step of a path whether all is right so far and 24 can still be reached: for training labels only."""
    return [numbers is not None and is_solvable(numbers) for numbers in _follow(puzzle, steps)]


def _follow(puzzle: str, steps: Sequence[str]) -> list[Numbers | None]:
    """What is left after each step, sorted; `None` from the first step on that is wrong."""
    numbers: list[int] | None = sorted(map(int, puzzle.split()))
    found: list[Numbers | None] = []
    for step in steps:
        numbers = None if numbers is None else _take(numbers, STEP.fullmatch(step))
        found.append(None if numbers is None else tuple(numbers))
    return found


def _take(numbers: list[int], step: re.Match[str] | None) -> list[int] | None:
    if step is None:
        return None
    left, first, symbol, second, result = list(numbers), int(step[1]), step[2], int(step[3]), int(step[4])
    for number in (first, second):
        if number not in left:
            return None
        left.remove(number)
    left = sorted([*left, result])
    is_right = _combine(first, symbol, second) == result and sorted(map(int, step[5].split())) == left
    return left if is_right else None


def _combine(first: int, symbol: str, second: int) -> int | None:
    """The result; `None` for one that is not a whole number from 1 to `LARGEST`."""
    if symbol == "/":
        result = first // second if first % second == 0 else 0
    else:
        result = {"+": first + second, "-": first - second, "*": first * second}[symbol]
    return result if 1 <= result <= LARGEST else None
