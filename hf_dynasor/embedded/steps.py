"""Steps of a calculation: a small graph of binary operations on non-negative whole numbers.

Knows nothing about wording, levels or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OPERATORS = ("+", "-", "*", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One operand: a given number (`source` is None) or the result of an earlier step.

    Args:
        value: The right value, a non-negative whole number.
        source: Index of the step that yields this value, or None for a number that the question gives.
    """

    value: int
    source: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation, `left operator right`, and its right result."""

    left: Term
    operator: str
    right: Term
    result: int

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ValueError(f"Got {self.operator = } but expected one of {OPERATORS}")


class StepBuilder:
    """Collects the steps of one problem in the order in which a chain of thought writes them.

    Examples:

    ```python
    >>> builder = StepBuilder()
    >>> product = builder.apply(Term(value=3), "*", Term(value=6))
    >>> builder.apply(product, "+", Term(value=4)).value
    22
    >>> [line(step) for step in builder.steps]
    ['3*6=18', '18+4=22']

    ```
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def apply(self, left: Term, operator: str, right: Term) -> Term:
        """Adds a step and returns its result as a term for later steps."""
        result = compute(left.value, operator, right.value)
        if result is None:
            raise ValueError(f"Got {left.value}{operator}{right.value}, which is negative or not whole")
        self.steps.append(Step(left=left, operator=operator, right=right, result=result))
        return Term(value=result, source=len(self.steps) - 1)


def compute(left: int, operator: str, right: int) -> int | None:
    """Returns the result, or None where it would be negative or not a whole number."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right if left >= right else None
    if operator == "*":
        return left * right
    return left // right if right and left % right == 0 else None


def line(step: Step) -> str:
    """Returns the step as a chain of thought writes it: `47+58=105`."""
    return format_line(step.left.value, step.operator, step.right.value, step.result)


def format_line(left: int, operator: str, right: int, result: int) -> str:
    """Returns `left operator right=result` without spaces."""
    return f"{left}{operator}{right}={result}"


def operand_value(term: Term, results: Sequence[int]) -> int:
    """Returns the term's value, given the results that a (possibly wrong) chain has reached so far."""
    return term.value if term.source is None else results[term.source]
