"""The generator of questions: deterministic, right, apart by split, harder level by level."""

import re
import statistics

import pytest

from hf_dynasor.embedded.levels import LEVELS, ProductRange, Range
from hf_dynasor.embedded.problems import BOXED_SUFFIX, Problem, generate_problems, split_of
from hf_dynasor.embedded.steps import Step, Term, compute, line

PROBLEMS = generate_problems(800, seed=11, split="test")
_EXPRESSION = re.compile(r"[\d(][\d\s()+\-*/×÷x]*")


def _without_suffix(problem: Problem) -> str:
    return problem.question.replace(BOXED_SUFFIX, "").strip()


def _evaluate_expression(question: str) -> int | None:
    """Evaluates the expression in a question by Python's own arithmetic; None for a word problem."""
    found = max(_EXPRESSION.findall(question), key=len, default="").strip()
    rest = question.replace(found, "", 1)
    if re.search(r"\d", rest) or len(re.findall(r"[.?!]", rest)) > 1 or " has " in rest:
        return None
    source = found.replace("×", "*").replace("x", "*").replace("÷", "/")
    return round(eval(source, {"__builtins__": {}}))


def test_same_arguments_give_the_same_problems() -> None:
    assert generate_problems(50, seed=3) == generate_problems(50, seed=3)


def test_seeds_and_splits_give_other_problems() -> None:
    questions = [
        {problem.question for problem in generate_problems(80, seed=seed, split=split, levels=[4, 5, 6])}
        for seed, split in [(0, "train"), (1, "train"), (0, "test")]
    ]
    assert questions[0].isdisjoint(questions[1])
    assert questions[0].isdisjoint(questions[2])


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert generate_problems(30, seed=5)[:10] == generate_problems(10, seed=5)


def test_no_test_question_is_ever_a_training_question() -> None:
    tests = {_without_suffix(problem) for problem in PROBLEMS}
    for seed in range(3):
        trains = generate_problems(2000, seed=seed, levels=[1, 1, 2, 3])
        assert tests.isdisjoint(_without_suffix(problem) for problem in trains)
        assert all(split_of(problem.steps) == "train" for problem in trains)
    assert all(split_of(problem.steps) == "test" for problem in PROBLEMS)


def test_answers_to_expressions_are_what_python_computes() -> None:
    checked = 0
    for problem in PROBLEMS:
        value = _evaluate_expression(_without_suffix(problem))
        if value is not None:
            assert problem.answer == str(value), problem.question
            checked += 1
    assert checked > 250


def test_answers_to_word_problems_follow_from_their_numbers() -> None:
    """Every given number of a step occurs in the question, or is the hidden factor of `twice` or `doubles`."""
    for problem in PROBLEMS:
        numbers = set(map(int, re.findall(r"\d+", problem.question)))
        hidden = {2} if re.search("twice|doubles", problem.question) else set()
        given = {
            term.value for step in problem.steps for term in (step.left, step.right) if term.source is None
        }
        assert given <= numbers | hidden, problem.question


def test_steps_are_right_and_build_on_each_other() -> None:
    for problem in PROBLEMS:
        for index, step in enumerate(problem.steps):
            assert compute(step.left.value, step.operator, step.right.value) == step.result >= 0
            for term in (step.left, step.right):
                if term.source is not None:
                    assert term.source < index
                    assert problem.steps[term.source].result == term.value
        assert problem.answer == str(problem.steps[-1].result)


def test_every_result_but_the_last_is_used() -> None:
    for problem in PROBLEMS:
        used = {term.source for step in problem.steps for term in (step.left, step.right)}
        assert used - {None} == set(range(len(problem.steps) - 1)), problem.question


def test_levels_take_turns_and_ids_are_unique() -> None:
    assert [problem.level for problem in PROBLEMS[:8]] == list(LEVELS)
    assert len({problem.id for problem in PROBLEMS}) == len(PROBLEMS)


def test_levels_grow_by_the_largest_number_in_their_chains() -> None:
    """Median over 100 problems a level, fixed seed."""
    sizes = [
        statistics.median(
            max(step.result for step in problem.steps) for problem in PROBLEMS if problem.level == level
        )
        for level in LEVELS
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1000 * sizes[3]


def test_easy_levels_have_more_steps_than_the_impossible_one() -> None:
    lengths = {
        level: statistics.mean(len(problem.steps) for problem in PROBLEMS if problem.level == level)
        for level in LEVELS
    }
    assert lengths[1] < lengths[2] < lengths[3] < lengths[4]
    assert lengths[8] < lengths[7] < lengths[6] < lengths[5] < lengths[4]


def test_some_questions_ask_for_a_box_and_most_do_not() -> None:
    share = statistics.mean(BOXED_SUFFIX in problem.question for problem in PROBLEMS)
    assert 0.2 < share < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_problems": 0}, "num_problems = 0"),
        ({"num_problems": 1, "levels": [9]}, r"levels = \[9\]"),
        ({"num_problems": 1, "levels": []}, "one or more"),
        ({"num_problems": 1, "split": "dev"}, "split = 'dev'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_problems(**{"seed": 0, **arguments})  # type: ignore[arg-type]


def test_ranges_refuse_disorder() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        Range(low=3, high=2)
    assert ProductRange(left=Range(low=3, high=3), right=Range(low=3, high=3)).left.high == 3


def test_a_step_is_one_line_and_refuses_unknown_operators() -> None:
    three, two = Term(value=3), Term(value=2)
    assert line(Step(left=three, operator="*", right=two, result=6)) == "3*2=6"
    with pytest.raises(ValueError, match="operator"):
        Step(left=three, operator="^", right=two, result=9)


@pytest.mark.parametrize(("left", "operator", "right"), [(2, "-", 3), (7, "/", 2), (7, "/", 0)])
def test_negative_and_broken_results_do_not_exist(left: int, operator: str, right: int) -> None:
    assert compute(left, operator, right) is None
