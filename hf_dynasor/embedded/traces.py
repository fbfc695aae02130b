"""Writes what the embedded model learns from: short chains, long thoughts, answers to probes, and drills.

An example is a list of conversation segments, each either given (a question, a probe) or a target to learn. Knows
nothing about tokenizers and models. Some traces are wrong on purpose: a step's result is replaced and the chain is
carried on with it, so that sampling is diverse and a step reward has wrong steps to find.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.embedded.problems import Problem
from hf_dynasor.embedded.steps import compute, format_line, operand_value

STEP_DELIMITER = "\n\n"
THINK_START = "<think>"
THINK_END = "</think>"
NUM_DRILL_FACTS = 10

RECHECK_OPENINGS = (
    "Wait, let me double check.",
    "Hmm, let me verify.",
    "Wait, let me check that again.",
    "Let me go through it once more.",
    "Hmm, let me compute it again.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A text that asks for the final answer in the middle of a chain, and what follows the answer."""

    prompt: str
    ending: str


PROBES = (
    Probe(
        prompt="... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{",
        ending="} \\]",
    ),
    Probe(prompt="\n\n**Final Answer**\n\n\\[ \\boxed{", ending="} \\]"),
    Probe(prompt="\n\n**Final Answer**\n\n\\boxed{", ending="}"),
    Probe(prompt="\n</think>\n\nThe answer is \\boxed{", ending="}."),
    Probe(prompt="\n</think>\n\n**Final Answer**\n\n\\boxed{", ending="}"),
    Probe(prompt="\n\nThe answer is \\boxed{", ending="}."),
    Probe(prompt="\n\nSo the answer is \\boxed{", ending="}."),
    Probe(prompt="\n\nFinal answer: \\boxed{", ending="}"),
)
EARLY_STOP_PROMPT = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of the assistant's turn; only targets are learned."""

    text: str
    is_target: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example: a question (None for a drill) and the assistant's turn.

    Args:
        question: The user's turn, or None where the text stands alone.
        segments: The assistant's turn, in order.
        is_complete: Whether the turn ends, that is, whether the end-of-turn token follows.
    """

    question: str | None
    segments: tuple[Segment, ...]
    is_complete: bool = True


def write_short(problem: Problem, results: Sequence[int]) -> str:
    """Returns the steps, one a paragraph, and the boxed answer."""
    return _write_steps(problem, results) + STEP_DELIMITER + _write_answer(results)


def write_long(problem: Problem, passes: Sequence[Sequence[int]], openings: Sequence[str]) -> str:
    """Returns a thought that solves the problem once for every pass, then the boxed answer.

    Args:
        passes: Results of the steps in the first pass and in each re-check.
        openings: The sentences that open the re-checks, one fewer than the passes.
    """
    parts = [_write_steps(problem, passes[0]), f"So the answer is {passes[0][-1]}."]
    for opening, results in zip(openings, passes[1:], strict=True):
        parts += [opening, _write_steps(problem, results), f"So it is {results[-1]}."]
    thought = STEP_DELIMITER.join(parts)
    return f"{THINK_START}\n{thought}\n{THINK_END}{STEP_DELIMITER}{_write_answer(passes[-1])}"


def corrupt_results(problem: Problem, rng: random.Random, rate: float) -> list[int]:
    """Returns the results of a chain in which each step is wrong with probability `rate`, and carried on.

    Falls back to the right results where an error would lead to a negative or broken number.
    """
    results: list[int] = []
    for step in problem.steps:
        left, right = operand_value(step.left, results), operand_value(step.right, results)
        result = compute(left, step.operator, right)
        if result is None:
            return right_results(problem)
        results.append(corrupt_number(result, rng) if rng.random() < rate else result)
    return results


def right_results(problem: Problem) -> list[int]:
    """Returns the right results of the steps."""
    return [step.result for step in problem.steps]


def corrupt_number(number: int, rng: random.Random) -> int:
    """Returns another number: one digit replaced, or now and then off by one or ten."""
    if rng.random() < 0.2:
        shifted = number + rng.choice((-10, -1, 1, 10))
        return shifted if shifted >= 0 else number + 1
    digits = list(str(number))
    place = rng.randrange(len(digits))
    is_leading = place == 0 and len(digits) > 1
    digits[place] = rng.choice([digit for digit in "0123456789"[is_leading:] if digit != digits[place]])
    return int("".join(digits))


def make_short(problem: Problem, rng: random.Random, *, error_rate: float = 0.04) -> Example:
    """Returns an example of a short chain."""
    text = write_short(problem, corrupt_results(problem, rng, error_rate))
    return Example(question=problem.question, segments=(Segment(text=text),))


def make_long(problem: Problem, rng: random.Random, *, error_rate: float = 0.08) -> Example:
    """Returns an example of a long thought with one to four re-checks."""
    text, _ = _draw_long(problem, rng, error_rate)
    return Example(question=problem.question, segments=(Segment(text=text),))


def make_probe(problem: Problem, rng: random.Random, *, error_rate: float = 0.08) -> Example:
    """Returns a chain that is cut anywhere and asked for its answer.

    The target is the answer stated so far or, before one is stated, the answer that this very chain will reach.
    """
    if rng.random() < 0.8:
        text, passes = _draw_long(problem, rng, error_rate)
    else:
        passes = [corrupt_results(problem, rng, error_rate)]
        text = write_short(problem, passes[0])
    body = text.split(f"\n{THINK_END}", maxsplit=1)[0]
    chain = body[: rng.choice(_cut_places(body))]
    answer = _stated_answer(chain) or str(passes[0][-1])
    return Example(question=problem.question, segments=(Segment(text=chain), *_ask(rng, chain, answer)))


def make_drill(problems: Sequence[Problem], rng: random.Random) -> Example:
    """Returns bare facts out of several problems, one a paragraph; only their results are targets."""
    segments: list[Segment] = []
    steps = [step for problem in problems for step in problem.steps]
    for step in rng.sample(steps, min(NUM_DRILL_FACTS, len(steps))):
        given, result = format_line(step.left.value, step.operator, step.right.value, step.result).split("=")
        delimiter = STEP_DELIMITER if segments else ""
        segments += [Segment(text=f"{delimiter}{given}=", is_target=False), Segment(text=result)]
    return Example(question=None, segments=tuple(segments), is_complete=False)


def _draw_long(problem: Problem, rng: random.Random, error_rate: float) -> tuple[str, list[list[int]]]:
    num_rechecks = rng.choices((1, 2, 3, 4), weights=(4, 3, 2, 1))[0]
    passes = [corrupt_results(problem, rng, error_rate)]
    for _ in range(num_rechecks):
        passes.append(_recheck(problem, rng, passes))
    openings = rng.sample(RECHECK_OPENINGS, num_rechecks)
    return write_long(problem, passes, openings), passes


def _recheck(problem: Problem, rng: random.Random, passes: Sequence[list[int]]) -> list[int]:
    """Returns the results of a further pass: a wrong one is repeated half of the time, else put right."""
    if passes[-1] != right_results(problem) and rng.random() < 0.5:
        return list(passes[-1])
    return corrupt_results(problem, rng, 0.02)


def _ask(rng: random.Random, chain: str, answer: str) -> tuple[Segment, ...]:
    """Returns a probe and its answer, in the words that fit the kind of chain."""
    is_thought = chain.startswith(THINK_START)
    if is_thought and rng.random() < 0.15:
        return (
            Segment(text=EARLY_STOP_PROMPT, is_target=False),
            Segment(text=f"The answer is \\boxed{{{answer}}}."),
        )
    probe = rng.choice([probe for probe in PROBES if is_thought or THINK_END not in probe.prompt])
    return Segment(text=probe.prompt, is_target=False), Segment(text=f"{answer}{probe.ending}")


def _cut_places(text: str) -> list[int]:
    """Returns the places between two words, digits or signs; the end is one of them."""
    places = [match.start() for match in re.finditer(r"(?<=[\d\n.=+*/-])|(?=\s)", text)]
    return [place for place in places if place >= len(THINK_START)] + [len(text)]


def _stated_answer(chain: str) -> str | None:
    """Returns the answer that the chain has stated last, if any."""
    stated: list[str] = re.findall(r"(?:So the answer is|So it is) (\d+)\.", chain)
    return stated[-1] if stated else None


def _write_steps(problem: Problem, results: Sequence[int]) -> str:
    lines = []
    for step, result in zip(problem.steps, results, strict=True):
        left, right = operand_value(step.left, results), operand_value(step.right, results)
        lines.append(format_line(left, step.operator, right, result))
    return STEP_DELIMITER.join(lines)


def _write_answer(results: Sequence[int]) -> str:
    return f"The answer is \\boxed{{{results[-1]}}}."
