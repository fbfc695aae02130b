"""Draws training examples of the embedded reasoner in the mix that it is trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hf_dynasor.embedded.problems import Problem, draw_problem
from hf_dynasor.embedded.traces import Example, make_drill, make_long, make_probe, make_short

LEVEL_WEIGHTS = {1: 8, 2: 8, 3: 10, 4: 12, 5: 20, 6: 22, 7: 16, 8: 4}
DRILL_LEVEL_WEIGHTS = {1: 4, 2: 4, 3: 6, 4: 10, 5: 24, 6: 28, 7: 22, 8: 2}
KIND_WEIGHTS = {"short": 58, "long": 15, "probe": 10, "drill": 17}
_NUM_DRILL_PROBLEMS = 4


def draw_examples(num_examples: int, *, seed: int) -> list[Example]:
    """Returns training examples that depend on the arguments alone."""
    rng = random.Random(f"examples-{seed}")
    return [_draw_example(rng) for _ in range(num_examples)]


def sample_texts(num_examples: int, *, seed: int) -> Iterator[str]:
    """Yields the texts of examples, to train a tokenizer on."""
    for example in draw_examples(num_examples, seed=seed):
        yield (example.question or "") + "".join(segment.text for segment in example.segments)


def _draw_example(rng: random.Random) -> Example:
    kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
    if kind == "drill":
        problems = [_draw_problem(rng, DRILL_LEVEL_WEIGHTS) for _ in range(_NUM_DRILL_PROBLEMS)]
        return make_drill(problems, rng)
    problem = _draw_problem(rng, LEVEL_WEIGHTS)
    make = {"short": make_short, "long": make_long, "probe": make_probe}[kind]
    return make(problem, rng)


def _draw_problem(rng: random.Random, weights: dict[int, int]) -> Problem:
    level = rng.choices(list(weights), weights=list(weights.values()))[0]
    return draw_problem(rng, level=level, split="train")
