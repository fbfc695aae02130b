"""Difficulty levels: how many operations a problem has, and how large its numbers are.

Levels 1 to 4 are the easy zone (several steps of small operations), 5 to 7 the scaling zone (few steps with a
product of two-digit or three-digit numbers in one line), level 8 is out of reach of the embedded model (products
of four-digit numbers in one line). Knows nothing about wording or models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"Got {self.low = }, {self.high = } but expected 0 <= low <= high")

    def draw(self, rng: random.Random) -> int:
        """Returns one of the numbers, all equally likely."""
        return rng.randint(self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRange:
    """Factors of a product; which of the two comes first is drawn."""

    left: Range
    right: Range

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Returns two factors in random order."""
        pair = self.left.draw(rng), self.right.draw(rng)
        return pair if rng.random() < 0.5 else (pair[1], pair[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpec:
    """What the problems of one level are made of.

    Args:
        operations: Number of operations, that is, of steps.
        addends: Size of numbers that are added or subtracted.
        product: Factors of an ordinary product.
        product_share: Probability that a free term is a product (or a quotient, a fifth of the time).
        hard_products: One of these is drawn for the one hard product of the problem; empty for none.
    """

    operations: Range
    addends: Range
    product: ProductRange
    product_share: float
    hard_products: tuple[ProductRange, ...] = ()


def _product(left: tuple[int, int], right: tuple[int, int]) -> ProductRange:
    return ProductRange(left=Range(low=left[0], high=left[1]), right=Range(low=right[0], high=right[1]))


def _spec(
    operations: tuple[int, int],
    largest_addend: int,
    product: ProductRange,
    product_share: float,
    *hard_products: ProductRange,
) -> LevelSpec:
    return LevelSpec(
        operations=Range(low=operations[0], high=operations[1]),
        addends=Range(low=1, high=largest_addend),
        product=product,
        product_share=product_share,
        hard_products=hard_products,
    )


_TABLE = _product((2, 12), (2, 9))
_SHORT = _product((2, 25), (2, 9))

LEVELS: Mapping[int, LevelSpec] = MappingProxyType(
    {
        1: _spec((1, 4), 20, _product((2, 10), (2, 9)), 0.3),
        2: _spec((3, 5), 50, _TABLE, 0.35),
        3: _spec((4, 6), 99, _TABLE, 0.35),
        4: _spec((5, 7), 99, _SHORT, 0.4),
        5: _spec((3, 5), 300, _SHORT, 0.2, _product((10, 99), (11, 19)), _product((100, 499), (2, 9))),
        6: _spec((2, 4), 500, _SHORT, 0.2, _product((11, 99), (11, 49)), _product((100, 999), (3, 12))),
        7: _spec((1, 3), 999, _SHORT, 0.1, _product((21, 99), (21, 99)), _product((100, 999), (11, 29))),
        8: _spec((1, 2), 9999, _SHORT, 0.0, _product((1001, 9999), (1001, 9999))),
    }
)
