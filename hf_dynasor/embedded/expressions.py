"""Expression questions such as "What is 47 + 58 - 3 * 6?" and the steps that solve them.

Knows nothing about models; every random choice comes from the generator that it is given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.embedded.levels import LevelSpec
from hf_dynasor.embedded.steps import Step, StepBuilder, Term

QUESTION_FORMS = (
    "What is {}?",
    "What is {}?",
    "What is {}?",
    "what is {}?",
    "what is {}",
    "What's {}?",
    "Calculate {}.",
    "Calculate {}",
    "calculate {}",
    "Compute {}.",
    "Compute {}",
    "Please compute {}.",
    "Evaluate {}.",
    "Work out {}.",
    "Solve {}.",
    "Find the value of {}.",
    "What is the value of {}?",
    "What is the result of {}?",
    "How much is {}?",
    "Can you calculate {}?",
    "{} = ?",
    "{}=?",
    "{} =",
    "{}=",
    "{}",
    "{}",
    "{}?",
)
_TIMES_SPELLINGS = ("*", "*", "*", "*", "*", "*", "×", "×", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One summand of an expression: its text pieces, and the operations that reduce it to a number."""

    pieces: tuple[str, ...]
    numbers: tuple[int, ...]
    operators: tuple[str, ...] = ()


def write_expression(rng: random.Random, spec: LevelSpec) -> tuple[str, tuple[Step, ...]]:
    """Returns a question about one expression of the level, and its steps."""
    builder = StepBuilder()
    parts = _draw_parts(rng, spec)
    terms = [_reduce(builder, part) for part in parts]
    pieces = [*parts[0].pieces]
    total = terms[0]
    for part, term in zip(parts[1:], terms[1:], strict=True):
        operator = "-" if term.value <= total.value and rng.random() < 0.4 else "+"
        total = builder.apply(total, operator, term)
        pieces += [operator, *part.pieces]
    text = rng.choice(QUESTION_FORMS).format(_spell(rng, pieces))
    return text, tuple(builder.steps)


def _draw_parts(rng: random.Random, spec: LevelSpec) -> list[_Part]:
    """Returns the summands in random order; together they need as many operations as were drawn."""
    remaining = spec.operations.draw(rng)
    parts: list[_Part] = []
    if spec.hard_products:
        left, right = rng.choice(spec.hard_products).draw(rng)
        parts.append(_product(left, right))
        remaining -= 1
    while remaining > 0 or len(parts) == 0:
        joining = 1 if parts else 0
        part = _draw_part(rng, spec, max_operations=remaining - joining)
        parts.append(part)
        remaining -= joining + len(part.operators)
    rng.shuffle(parts)
    return parts


def _draw_part(rng: random.Random, spec: LevelSpec, *, max_operations: int) -> _Part:
    if max_operations < 1 or rng.random() >= spec.product_share:
        number = spec.addends.draw(rng)
        return _Part(pieces=(str(number),), numbers=(number,))
    left, right = spec.product.draw(rng)
    kind = rng.random()
    if kind < 0.2:
        return _Part(
            pieces=(str(left * right), "/", str(right)), numbers=(left * right, right), operators=("/",)
        )
    if kind < 0.4 and max_operations >= 2:
        return _bracket(rng, left, right)
    return _product(left, right)


def _product(left: int, right: int) -> _Part:
    return _Part(pieces=(str(left), "*", str(right)), numbers=(left, right), operators=("*",))


def _bracket(rng: random.Random, left: int, right: int) -> _Part:
    """Returns `(a+b)*right` or `(a-b)*right` whose bracket has the value `left`."""
    if rng.random() < 0.5:
        second = rng.randint(1, 20)
        first, operator = left + second, "-"
    else:
        second = rng.randint(1, left - 1)
        first, operator = left - second, "+"
    pieces = ("(", str(first), operator, str(second), ")", "*", str(right))
    return _Part(pieces=pieces, numbers=(first, second, right), operators=(operator, "*"))


def _reduce(builder: StepBuilder, part: _Part) -> Term:
    """Adds the steps inside one summand and returns its value as a term."""
    term = Term(value=part.numbers[0])
    for operator, number in zip(part.operators, part.numbers[1:], strict=True):
        term = builder.apply(term, operator, Term(value=number))
    return term


def _spell(rng: random.Random, pieces: Sequence[str]) -> str:
    """Returns the pieces as text, with or without spaces, with one of the spellings of times and divided by."""
    times = rng.choice(_TIMES_SPELLINGS)
    divided = "÷" if times == "×" else "/"
    spelt = [{"*": times, "/": divided}.get(piece, piece) for piece in pieces]
    if times != "x" and rng.random() < 0.5:
        return "".join(spelt)
    return " ".join(spelt).replace("( ", "(").replace(" )", ")")
