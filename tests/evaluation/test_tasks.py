"""Task templates: rows become questions, right answers are graded right, a YAML file's mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.answers import Sandbox, extract_answer
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.graders import build_humaneval, build_livecodebench, make_grader, makes_24, passes
from hf_dynasor.evaluation.tasks import TaskTemplate
from hf_dynasor.evaluation.templates import TEMPLATES, find_template, read_template

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "gsm8k": "gsm8k_test",
    "math500": "math500",
    "asdiv": "asdiv",
    "svamp": "svamp",
    "aime": "aime24",
    "amc": "amc23",
    "game24": "game24",
    "humaneval": "humaneval",
    "mbpp": "mbpp",
}


def read_rows(name, limit):
    path = DATA / f"{FILES[name]}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()[:limit]]


def make_items(name, limit):
    template = TEMPLATES[name]
    return template, [
        template.make_item(row, number=number) for number, row in enumerate(read_rows(name, limit))
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_a_real_data_set_becomes_a_question_of_its_own(name):
    _, items = make_items(name, 200)
    assert len({item.question.id for item in items}) == len(items)
    assert all(item.question.question.strip() and item.question.answer and item.text for item in items)


@pytest.mark.parametrize("name", ["gsm8k", "asdiv", "svamp", "aime", "amc", "math500"])
def test_the_right_answer_in_a_box_is_found_and_graded_right(name):
    template, items = make_items(name, 60)
    grade = make_grader(template)
    for item in items:
        answer = extract_answer(f"So \\boxed{{{item.question.answer}}}.", format=template.answer_format)
        assert grade(answer, item), item.question
        assert not grade("987654321", item)


def test_gsm8k_as_the_hub_has_it_and_as_a_plain_number_have_the_same_answer():
    rows = [{"question": "?", "answer": text} for text in ("4+5 is 9.\n#### 9", "9")]
    golds = {TEMPLATES["gsm8k"].make_item(row, number=0).question.answer for row in rows}
    assert golds == {"9"}


def test_fields_that_data_sets_spell_otherwise_are_found():
    row = {"problem": "Find x.", "answer": "3", "unique_id": "test/1", "level": 2}
    question = TEMPLATES["math500"].make_item(row, number=0).question
    assert (question.question, question.id, question.group) == ("Find x.", "test/1", "2")


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("(1+1+4)*... ", False),
        ("6/(1-1/4)", False),
        ("6*4*1*1", True),
        (r"6 \times 4 \cdot 1 \div 1", True),
        (r"\frac{6}{1}\times 4 \times 1 = 24", True),
        ("24", False),
        ("__import__('os')", False),
        ("6**4", False),
        ("1/0", False),
        ("((((((", False),
        ("4" * 500, False),
    ],
)
def test_game_of_24_is_calculated(answer, is_right):
    assert makes_24(answer, "1 1 4 6") is is_right


def test_game_of_24_needs_fractions_not_floats():
    assert makes_24("8/(3-8/3)", "3 3 8 8")


@given(st.text(max_size=40))
def test_no_text_makes_the_calculator_raise(text):
    assert makes_24(text, "1 1 4 6") in (True, False)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_the_solutions_of_a_data_set_pass_its_tests_and_an_empty_one_fails(name):
    template, items = make_items(name, 6)
    grade = make_grader(template, sandbox=Sandbox())
    for item in items:
        solution = item.row.get("canonical_solution") or item.row["code"]
        assert grade(solution, item), item.question.id
        assert not grade("x = 1", item)


def test_humaneval_takes_a_whole_function_with_what_stands_above_it():
    prompt = 'import math\n\ndef half(x):\n    """Half."""\n'
    row = {"prompt": prompt, "entry_point": "half", "test": "def check(c):\n    assert c(4) == 2"}
    for answer in ("def half(x):\n    return math.floor(x / 2)", "    return math.floor(x / 2)"):
        assert passes(build_humaneval(answer, row), Sandbox())


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        (
            {"public_test_cases": json.dumps([{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}])},
            "print(sum(map(int, input().split())))",
            "print(4)",
        ),
        (
            {
                "public_test_cases": json.dumps(
                    [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]
                ),
                "metadata": '{"func_name": "add"}',
                "private_test_cases": "eJxnot-json",
            },
            "class Solution:\n    def add(self, xs: List[int], y: int) -> int:\n        return sum(xs) + y",
            "class Solution:\n    def add(self, xs, y):\n        return y",
        ),
    ],
    ids=["reads and prints", "a method"],
)
def test_livecodebench_runs_programs_and_methods(row, right, wrong):
    sandbox = Sandbox()
    assert passes(build_livecodebench(right, row), sandbox)
    assert not passes(build_livecodebench(wrong, row), sandbox)
    assert not passes(build_livecodebench("raise SystemExit", row), sandbox)


def test_livecodebench_tests_that_cannot_be_read_are_an_error():
    with pytest.raises(InputError, match="'q1'"):
        build_livecodebench("x", {"question_id": "q1", "public_test_cases": "[oops"})
    with pytest.raises(InputError, match="no test"):
        build_livecodebench("x", {"question_id": "q1", "public_test_cases": "[]"})


def test_a_task_that_runs_code_needs_a_sandbox():
    with pytest.raises(ConfigurationError, match="--run_code"):
        make_grader(TEMPLATES["mbpp"])


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["x", "y", "z"], "B", "B"),
        (["x", "y", "z"], 2, "C"),
        (["x", "y", "z"], "x", "A"),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", "B"),
        ({"text": ["x", "y"], "label": ["A", "B"]}, "A", "A"),
    ],
)
def test_a_choice_is_a_letter_whatever_the_data_set_calls_it(choices, answer, letter):
    row = {"question": "Which?", "choices": choices, "answer": answer}
    item = TEMPLATES["choice"].make_item(row, number=0)
    assert item.question.answer == letter
    assert item.question.question.startswith("Which?\nA. x\nB. y")
    assert make_grader(TEMPLATES["choice"])(f"({letter})", item)


@pytest.mark.parametrize(("choices", "answer"), [(["x"], "A"), ("xy", "A"), (["x", "y"], "C")])
def test_choices_that_cannot_be_are_refused_with_the_row(choices, answer):
    with pytest.raises(InputError, match="Row 7"):
        TEMPLATES["choice"].make_item({"question": "?", "choices": choices, "answer": answer}, number=7)


def test_a_missing_field_is_named_with_what_the_row_has():
    with pytest.raises(InputError, match=r"Row 3 has no field 'question'.*It has: answer, text"):
        TEMPLATES["gsm8k"].make_item({"text": "?", "answer": "1"}, number=3)


def write(tmp_path, text):
    path = tmp_path / "sums.yaml"
    path.write_text(text)
    return path


def test_ones_own_template_from_a_file(tmp_path):
    path = write(tmp_path, 'prompt: "What is {left} + {right}?"\nanswer: total\nanswer_format: number\n')
    template = find_template(str(path))
    item = template.make_item({"left": 2, "right": 3, "total": 5}, number=0)
    assert (template.name, item.question.id) == ("sums", "sums-0")
    assert make_grader(template)("5.0", item)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("promt: '{question}'", "unknown field 'promt'. Known: answer"),
        ("answer: 3", "field 'answer' is 3"),
        ("grader: magic", "Unknown grader 'magic'. Known: answer"),
        ("answer_format: magic", "Unknown answer format"),
        ("prompt: no field", "without a field"),
        ("prompt: '{question'", "expected '}'"),
        ("prompt: '{question.__class__}'", "expected the name of a field"),
        ("prompt: '{question[0]}'", "expected the name of a field"),
        ("prompt: '{question!r}'", "expected the name of a field"),
        ("prompt: '{choices}'", "without `choices`"),
        ("- a list", "expected fields and values"),
        ("a: [", "Cannot read the template"),
        ("a: !!python/object/apply:os.getcwd []", "Cannot read the template"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        read_template(write(tmp_path, text))
    assert said in str(caught.value)
    assert "sums.yaml" in str(caught.value)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"Unknown task 'gsm9k'. Known: .*gsm8k"):
        find_template("gsm9k")


def test_every_template_is_listed_under_its_own_name():
    assert all(name == template.name for name, template in TEMPLATES.items())
    assert isinstance(TEMPLATES["plain"], TaskTemplate)
