"""Short word problems in English, and the steps that solve them.

Five kinds of story: a running count, a purchase, a comparison of people, equal groups, and sharing. Knows nothing
about models; every random choice comes from the generator that it is given.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hf_dynasor.embedded.levels import LevelSpec
from hf_dynasor.embedded.steps import Step, StepBuilder, Term

NAMES = (
    *("Tom", "Anna", "Ben", "Mia", "Leo", "Sara", "Jack", "Emma", "Omar", "Lily", "Noah", "Ella"),
    *("Sam", "Maria", "John", "Nina", "Alex", "Julia", "David", "Rosa", "James", "Mary", "Peter", "Lucy"),
)
OBJECTS = (
    *("apples", "books", "pens", "cookies", "marbles", "stickers", "coins", "eggs", "cards", "oranges"),
    *("pencils", "candies", "balls", "flowers", "stamps", "toys", "shells", "cupcakes", "tickets", "beads"),
)
GOODS = (
    *("pen", "book", "hat", "ball", "toy", "cake", "shirt", "bag", "cup", "ticket"),
    *("notebook", "sandwich", "lamp", "ruler", "pizza", "kite"),
)
CONTAINERS = ("boxes", "bags", "packs", "baskets", "cartons", "jars")
PLACES = ("shelves", "tables", "rooms", "trucks", "rows", "crates", "drawers", "stalls")
_GAINS = ("buys", "finds", "gets", "receives", "collects", "picks up", "wins", "makes")
_LOSSES = ("sells", "loses", "gives away", "uses", "throws away", "breaks")
_HAND_OVERS = ("gives {count} {objects} to {other}", "hands {count} {objects} to {other}")
_LINKS = ("Then {} ", "Next, {} ", "After that, {} ", "Later, {} ", "{} then ", "{} ")
_STILL = (
    "How many {} does {} have now?",
    "How many {} does {} have left?",
    "How many {} does {} have in the end?",
)
_TOTALS = ("How many {} are there in total?", "How many {} are there altogether?", "How many {} are there?")


@dataclass(slots=True)
class _Story:
    """A word problem being written: its sentences, its steps, and what its level allows."""

    rng: random.Random
    spec: LevelSpec
    remaining: int
    sentences: list[str] = field(default_factory=list)
    builder: StepBuilder = field(default_factory=StepBuilder)
    has_hard_product: bool = False

    def draw_product(self) -> tuple[int, int]:
        """Returns two factors; the first call returns the hard product of a level that has one."""
        if self.spec.hard_products and not self.has_hard_product:
            self.has_hard_product = True
            return self.rng.choice(self.spec.hard_products).draw(self.rng)
        return self.spec.product.draw(self.rng)

    def is_product_next(self) -> bool:
        """Whether the next quantity is a product, which the hard product of a level always is."""
        return (bool(self.spec.hard_products) and not self.has_hard_product) or (
            self.rng.random() < self.spec.product_share
        )

    def apply(self, left: Term, operator: str, right: Term) -> Term:
        """Adds a step and returns its result."""
        self.remaining -= 1
        return self.builder.apply(left, operator, right)

    def multiply(self, left: int, right: int) -> Term:
        """Adds the product of two given numbers and returns its result."""
        return self.apply(Term(value=left), "*", Term(value=right))


def write_word_problem(rng: random.Random, spec: LevelSpec) -> tuple[str, tuple[Step, ...]]:
    """Returns a word problem of the level, and its steps."""
    story = _Story(rng=rng, spec=spec, remaining=spec.operations.draw(rng))
    _choose_kind(story)(story)
    return " ".join(story.sentences), tuple(story.builder.steps)


def _choose_kind(story: _Story) -> Callable[[_Story], None]:
    kinds: list[Callable[[_Story], None]] = [_write_running_count, _write_running_count]
    if story.remaining % 2 == 1:
        kinds.append(_write_groups)
    if story.remaining >= 3:
        kinds.append(_write_purchase)
    if story.remaining in (2, 4, 6) and not story.spec.hard_products:
        kinds.append(_write_comparison)
    if story.remaining <= 2 and not story.spec.hard_products:
        kinds.append(_write_sharing)
    return story.rng.choice(kinds)


def _write_running_count(story: _Story) -> None:
    """Tom has 4 boxes of 12 apples. Then Tom sells 7 apples. How many apples does Tom have now?"""
    rng = story.rng
    name, other = rng.sample(NAMES, 2)
    objects = rng.choice(OBJECTS)
    if story.is_product_next():
        count, size = story.draw_product()
        total = story.multiply(count, size)
        container = rng.choice(CONTAINERS)
        form = rng.choice(("{} has {} {} of {} {}.", "{} has {} {} with {} {} each."))
        story.sentences.append(form.format(name, count, container, size, objects))
    else:
        total = Term(value=story.spec.addends.draw(rng))
        story.sentences.append(f"{name} has {total.value} {objects}.")
    while story.remaining > 0:
        total = _write_event(story, total, name, other, objects)
    story.sentences.append(rng.choice(_STILL).format(objects, name))


def _write_event(story: _Story, total: Term, name: str, other: str, objects: str) -> Term:
    """Adds one sentence that changes a running count, and returns the new count."""
    rng = story.rng
    opening = rng.choice(_LINKS).format(name)
    if total.value < 500 and rng.random() < 0.08:
        story.sentences.append(f"{opening}doubles the number of {objects}.")
        return story.apply(total, "*", Term(value=2))
    if story.remaining >= 2 and story.is_product_next():
        count, size = story.draw_product()
        amount, described = (
            story.multiply(count, size),
            f"{count} {rng.choice(CONTAINERS)} of {size} {objects}",
        )
    else:
        amount = Term(value=story.spec.addends.draw(rng))
        described = f"{amount.value} {objects}"
    if amount.value > total.value or rng.random() < 0.5:
        story.sentences.append(f"{opening}{rng.choice(_GAINS)} {described}.")
        return story.apply(total, "+", amount)
    if amount.source is None and rng.random() < 0.4:
        act = rng.choice(_HAND_OVERS).format(count=amount.value, objects=objects, other=other)
        story.sentences.append(f"{opening}{act}.")
    else:
        story.sentences.append(f"{opening}{rng.choice(_LOSSES)} {described}.")
    return story.apply(total, "-", amount)


def _write_groups(story: _Story) -> None:
    """There are 4 shelves with 12 books each and 3 tables with 5 books each. How many books are there?"""
    rng = story.rng
    objects = rng.choice(OBJECTS)
    num_groups = (story.remaining + 1) // 2
    phrases, totals = [], []
    for place in rng.sample(PLACES, num_groups):
        count, size = story.draw_product()
        phrases.append(f"{count} {place} with {size} {objects} each")
        totals.append(story.multiply(count, size))
    story.sentences.append(f"There are {_enumerate(phrases)}.")
    _add_up(story, totals)
    story.sentences.append(rng.choice(_TOTALS).format(objects))


def _write_purchase(story: _Story) -> None:
    """A pen costs 3 dollars and a book costs 12 dollars. Mia buys 4 pens and 2 books. How much …?"""
    rng = story.rng
    name = rng.choice(NAMES)
    has_change = story.remaining % 2 == 0
    goods = rng.sample(GOODS, (story.remaining + 1) // 2)
    prices, amounts, totals = [], [], []
    for good in goods:
        count, price = story.draw_product()
        prices.append(f"a {good} costs {price} dollars")
        amounts.append(f"{count} {good}{'es' if good == 'sandwich' else 's'}")
        totals.append(story.multiply(count, price))
    sentence = _enumerate(prices)
    story.sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
    story.sentences.append(f"{name} buys {_enumerate(amounts)}.")
    total = _add_up(story, totals)
    if not has_change:
        story.sentences.append(
            rng.choice(("How much does {} pay in total?", "How many dollars does {} pay?")).format(name)
        )
        return
    paid = total.value + story.spec.addends.draw(rng)
    story.apply(Term(value=paid), "-", total)
    story.sentences.append(f"{name} pays with {paid} dollars.")
    story.sentences.append(
        rng.choice(("How much change does {} get?", "How many dollars are left?")).format(name)
    )


def _write_comparison(story: _Story) -> None:
    """Anna has 12 apples. Tom has 7 more apples than Anna. How many apples do they have together?"""
    rng = story.rng
    objects = rng.choice(OBJECTS)
    names = rng.sample(NAMES, story.remaining // 2 + 1)
    counts = [Term(value=story.spec.addends.draw(rng))]
    story.sentences.append(f"{names[0]} has {counts[0].value} {objects}.")
    for before, name in itertools.pairwise(names):
        counts.append(_write_relation(story, counts[-1], before, name, objects))
    _add_up(story, counts)
    asked = ("How many {} do they have together?", "How many {} do they have in total?")
    story.sentences.append(rng.choice(asked).format(objects))


def _write_relation(story: _Story, count: Term, before: str, name: str, objects: str) -> Term:
    """Adds one sentence that gives a person's count by another's, and returns it."""
    rng = story.rng
    if count.value <= 30 and rng.random() < 0.4:
        factor = rng.randint(2, 5)
        times = "twice" if factor == 2 and rng.random() < 0.5 else f"{factor} times"
        story.sentences.append(f"{name} has {times} as many {objects} as {before}.")
        return story.apply(count, "*", Term(value=factor))
    difference = Term(value=story.spec.addends.draw(rng))
    if difference.value <= count.value and rng.random() < 0.5:
        story.sentences.append(f"{name} has {difference.value} fewer {objects} than {before}.")
        return story.apply(count, "-", difference)
    story.sentences.append(f"{name} has {difference.value} more {objects} than {before}.")
    return story.apply(count, "+", difference)


def _write_sharing(story: _Story) -> None:
    """Leo has 24 cards and shares them equally among 4 friends. How many cards does each friend get?"""
    rng = story.rng
    name, objects = rng.choice(NAMES), rng.choice(OBJECTS)
    share, friends = story.draw_product()
    start = Term(value=share * friends)
    if story.remaining == 2 and start.value > 1:
        found = Term(value=rng.randint(1, start.value - 1))
        story.sentences.append(
            f"{name} has {start.value - found.value} {objects} and finds {found.value} more."
        )
        start = story.apply(Term(value=start.value - found.value), "+", found)
        story.sentences.append(f"{name} shares them equally among {friends} friends.")
    else:
        story.sentences.append(
            f"{name} has {start.value} {objects} and shares them equally among {friends} friends."
        )
    story.apply(start, "/", Term(value=friends))
    story.sentences.append(f"How many {objects} does each friend get?")


def _add_up(story: _Story, terms: list[Term]) -> Term:
    """Adds the terms from left to right and returns the total."""
    total = terms[0]
    for term in terms[1:]:
        total = story.apply(total, "+", term)
    return total


def _enumerate(phrases: list[str]) -> str:
    """Returns `a, b and c`."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))
