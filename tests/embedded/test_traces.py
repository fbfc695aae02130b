"""What the embedded model learns from: chains, thoughts, probes, drills, and errors on purpose."""

import random
import re
import statistics

from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.embedded.problems import draw_problem, generate_problems
from hf_dynasor.embedded.traces import (
    PROBES,
    RECHECK_OPENINGS,
    STEP_DELIMITER,
    corrupt_number,
    corrupt_results,
    make_drill,
    make_long,
    make_probe,
    make_short,
    right_results,
    write_long,
    write_short,
)

PROBLEMS = generate_problems(200, seed=7)


def test_a_short_chain_has_one_step_a_paragraph_and_a_boxed_answer() -> None:
    for problem in PROBLEMS:
        parts = write_short(problem, right_results(problem)).split(STEP_DELIMITER)
        assert len(parts) == len(problem.steps) + 1
        assert all(re.fullmatch(r"\d+[-+*/]\d+=\d+", part) for part in parts[:-1])
        assert parts[-1] == f"The answer is \\boxed{{{problem.answer}}}."


def test_a_long_thought_closes_before_its_answer() -> None:
    problem = PROBLEMS[3]
    results = right_results(problem)
    text = write_long(problem, [results, results, results], RECHECK_OPENINGS[:2])
    assert text.startswith("<think>\n")
    assert text.count("So it is") == 2
    assert text.endswith(f"\n</think>{STEP_DELIMITER}The answer is \\boxed{{{problem.answer}}}.")


def test_rechecks_do_not_tell_whether_they_agree() -> None:
    rng = random.Random(0)
    text = "".join(segment.text for problem in PROBLEMS for segment in make_long(problem, rng).segments)
    assert not re.search(r"\b(yes|no|correct|wrong|right)\b", text, re.IGNORECASE)


def test_about_four_steps_in_a_hundred_are_wrong() -> None:
    """False alarm below 1e-6: 4 standard errors around the mean over some 8,000 steps, minus fall-backs."""
    rng = random.Random(1)
    problems = generate_problems(2000, seed=8, levels=[3, 4])
    own = []
    for problem in problems:
        results = corrupt_results(problem, rng, 0.04)
        first_wrong = next((i for i, step in enumerate(problem.steps) if results[i] != step.result), None)
        own += [i == first_wrong for i in range(len(results) if first_wrong is None else first_wrong + 1)]
    assert 0.025 < statistics.mean(own) < 0.05


def test_a_wrong_step_is_carried_on() -> None:
    rng = random.Random(2)
    problem = next(problem for problem in PROBLEMS if len(problem.steps) >= 4)
    results = next(
        r for _ in range(1000) if (r := corrupt_results(problem, rng, 0.3))[0] != problem.steps[0].result
    )
    assert str(results[0]) in write_short(problem, results).split(STEP_DELIMITER, 1)[1]


def test_no_errors_at_rate_zero() -> None:
    rng = random.Random(3)
    assert all(corrupt_results(problem, rng, 0.0) == right_results(problem) for problem in PROBLEMS)


@given(st.integers(min_value=0, max_value=10**9), st.integers())
def test_a_corrupted_number_is_another_whole_number(number: int, seed: int) -> None:
    changed = corrupt_number(number, random.Random(seed))
    assert changed != number
    assert changed >= 0


def test_a_probe_asks_in_known_words_and_expects_a_number() -> None:
    rng = random.Random(4)
    prompts = {probe.prompt for probe in PROBES}
    for problem in PROBLEMS:
        chain, asked, reply = make_probe(problem, rng).segments
        assert chain.is_target
        assert reply.is_target
        assert not asked.is_target
        assert asked.text in prompts or "limited time" in asked.text
        assert re.search(r"\d+\}", reply.text)


def test_a_probe_repeats_the_answer_stated_last() -> None:
    rng = random.Random(5)
    for problem in PROBLEMS:
        chain, _, reply = make_probe(problem, rng).segments
        stated = re.findall(r"So (?:the answer|it) is (\d+)\.", chain.text)
        if stated:
            assert re.search(r"\d+", reply.text)[0] == stated[-1]  # type: ignore[index]


def test_a_drill_learns_right_results_alone() -> None:
    rng = random.Random(6)
    example = make_drill([draw_problem(rng, level=5, split="train") for _ in range(4)], rng)
    assert example.question is None
    for given_part, result in zip(example.segments[::2], example.segments[1::2], strict=True):
        left, operator, right = re.fullmatch(r"\s*(\d+)([-+*/])(\d+)=", given_part.text).groups()  # type: ignore[union-attr]
        assert (given_part.is_target, result.is_target) == (False, True)
        assert int(result.text) == eval(f"{left}{operator.replace('/', '//')}{right}", {"__builtins__": {}})


def test_examples_depend_on_the_generator_alone() -> None:
    assert make_short(PROBLEMS[0], random.Random(9)) == make_short(PROBLEMS[0], random.Random(9))
