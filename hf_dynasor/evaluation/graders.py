"""Grades an answer as its task asks: against the right answer, by calculating, or by tests in a sandbox."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from hf_dynasor.answers import AnswerFormat, Sandbox, is_correct
from hf_dynasor.answers.sandbox import MAX_CALLS
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.tasks import CODE_GRADERS, TaskItem, TaskTemplate

Grade: TypeAlias = Callable[[str, TaskItem], bool]
"""Whether an answer that was found in a completion is right."""

MAX_EXPRESSION = 200
_GOAL = Fraction(24)
_SIGNS = (
    (r"\times", "*"),
    (r"\cdot", "*"),
    (r"\div", "/"),
    (r"\left", ""),
    (r"\right", ""),
    ("×", "*"),
    ("÷", "/"),
)
_FRACTION = re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}")
_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeProblem:
    """A candidate program with the expressions that it has to make true.

    Args:
        code: Python source: the candidate and what its tests need.
        calls: Expressions; each has to evaluate to `True`.
    """

    code: str
    calls: tuple[str, ...]


def make_grader(
    template: TaskTemplate, *, answer_format: AnswerFormat | None = None, sandbox: Sandbox | None = None
) -> Grade:
    """The grader of a template.

    Args:
        template: The task.
        answer_format: How answers are read; by default as the template says.
        sandbox: Where tests run; needed for tasks that run code, and for them alone.

    Raises:
        ConfigurationError: A task that runs code without a sandbox.
    """
    if template.grader == "game24":
        return lambda answer, item: makes_24(answer, item.text)
    if template.grader not in CODE_GRADERS:
        format: AnswerFormat = answer_format or template.answer_format
        return lambda answer, item: is_correct(answer, item.question.answer, format=format)
    if sandbox is None:
        raise ConfigurationError(
            f"Task {template.name!r} grades by running what the model wrote, in a sandbox. Allow it with --run_code "
            "(sandbox=Sandbox() in Python), after reading what the sandbox holds (docs/programs.md)."
        )
    build = _BUILDERS[template.grader]
    return lambda answer, item: passes(build(answer, item.row), sandbox)


def makes_24(answer: str, numbers: str) -> bool:
    """Whether an expression uses each of the numbers exactly once and comes to 24.

    Examples:
        >>> makes_24("(6 - 1 - 1) * 4 + 8", "1 1 4 6"), makes_24("6*4*1*1 = 24", "1 1 4 6")
        (False, True)
    """
    text = answer.partition("=")[0].strip().strip("$")
    for sign, plain in _SIGNS:
        text = text.replace(sign, plain)
    text = _FRACTION.sub(r"((\1)/(\2))", text)
    if len(text) > MAX_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        used = Counter(str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant))
        return used == Counter(numbers.split()) and _calculate(tree) == _GOAL
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False


def passes(problem: CodeProblem, sandbox: Sandbox) -> bool:
    """Whether a candidate makes every expression true, within the sandbox's limits."""
    run = sandbox.run(problem.code, problem.calls)
    return bool(run.results) and all(result.value == "True" for result in run.results)


def build_humaneval(answer: str, row: Mapping[str, Any]) -> CodeProblem:
    """HumanEval: `check(entry_point)` of the row's test. An answer may be the whole function or only its body."""
    name = str(row["entry_point"])
    prompt = str(row["prompt"])
    is_whole = re.search(rf"^(?:async )?def {re.escape(name)}\b", answer, re.MULTILINE)
    # What stands above the function (imports, other functions) belongs to the answer either way.
    above = prompt[: prompt.rindex(f"def {name}")] if f"def {name}" in prompt else prompt
    candidate = f"{above}\n{answer}" if is_whole else prompt + answer
    return CodeProblem(code=f"{candidate}\n\n{row['test']}", calls=(f"check({name}) is None",))


def build_mbpp(answer: str, row: Mapping[str, Any]) -> CodeProblem:
    """MBPP: the row's asserts, each in a function of its own."""
    tests = [str(test) for test in row["test_list"]]
    setup = str(row.get("test_setup_code") or "")
    return _build_asserts(f"{answer}\n{setup}", tests)


def build_livecodebench(answer: str, row: Mapping[str, Any]) -> CodeProblem:
    """LiveCodeBench: programs that read and print, or methods of `Solution`, on the row's public tests and, where they are
    plain JSON, its private ones (those that are pickled are never read).

    Raises:
        InputError: The row's tests cannot be read.
    """
    try:
        tests = _read_tests(row.get("public_test_cases")) + _read_tests(
            row.get("private_test_cases"), may_skip=True
        )
        method = json.loads(row.get("metadata") or "{}").get("func_name")
        calls = [_call_test(test, method) for test in tests[:MAX_CALLS]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Row {row.get('question_id')!r} has tests that cannot be read ({error!r})."
        ) from None
    if not calls:
        raise InputError(f"Row {row.get('question_id')!r} has no test.")
    imports = "from typing import *\nfrom collections import *\nimport math\n"
    is_method = method and any(test.get("testtype") == "functional" for test in tests)
    code = f"{imports}{answer}" if is_method else _READER.format(source=imports + answer)
    return CodeProblem(code=code, calls=tuple(calls))


_READER = """\
import io, sys
_SOURCE = {source!r}
def _solve(text):
    kept, sys.stdin, sys.stdout = (sys.stdin, sys.stdout), io.StringIO(text), io.StringIO()
    try:
        exec(compile(_SOURCE, "<candidate>", "exec"), {{"__name__": "__main__"}})
    except SystemExit:
        pass
    finally:
        told = sys.stdout.getvalue()
        sys.stdin, sys.stdout = kept
    return told.split()
"""

_BUILDERS: Mapping[str, Callable[[str, Mapping[str, Any]], CodeProblem]] = {
    "humaneval": build_humaneval,
    "mbpp": build_mbpp,
    "livecodebench": build_livecodebench,
}


def _call_test(test: Mapping[str, str], method: str | None) -> str:
    if test.get("testtype") == "functional" and method:
        values = [json.loads(line) for line in test["input"].splitlines() if line.strip()]
        return f"Solution().{method}(*{values!r}) == {json.loads(test['output'])!r}"
    return f"_solve({test['input']!r}) == {test['output'].split()!r}"


def _read_tests(value: Any, *, may_skip: bool = False) -> list[dict[str, str]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            if may_skip:
                return []
            raise
    return list(value or [])


def _build_asserts(code: str, tests: list[str]) -> CodeProblem:
    if not tests:
        raise InputError("Got a row without tests but expected at least one.")
    parts = [code]
    for number, test in enumerate(tests):
        body = "\n".join(f"    {line}" for line in test.splitlines())
        parts.append(f"def _test_{number}():\n{body}")
    return CodeProblem(
        code="\n\n".join(parts), calls=tuple(f"_test_{number}() is None" for number in range(len(tests)))
    )


def _calculate(node: ast.expr) -> Fraction:
    """The value of an expression of numbers, four operations and brackets.

    Raises:
        ValueError: It holds anything else.
    """
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_calculate(node.left), _calculate(node.right))
    raise ValueError("no expression of four operations")
