"""Code as an answer: the block that a completion ends with, and what it says without names, comments and layout.

Nothing here runs code: two programs are one answer if they are the same tree after renaming. What programs *do* is
`hf_dynasor.answers.groupers.OutputGrouper`'s affair.
"""

from __future__ import annotations

import ast
import hashlib
import re
import threading
import warnings
from typing import TypeGuard

from hf_dynasor.answers.fallbacks import Span

MAX_CODE = 20_000
"""Longest code, in characters, that is parsed."""

_FENCE = re.compile(r"^[ \t]{0,3}```[^\n`]{0,40}\n", re.MULTILINE)
_CLOSING = re.compile(r"^[ \t]{0,3}```[ \t]*$", re.MULTILINE)
_BARE = re.compile(r"^(?:(?:def|class|import|from|async def) |@)", re.MULTILINE)
_PARSING = threading.Lock()


def find_code(text: str, *, is_truncated: bool = False) -> Span | None:
    r"""The last fenced block of a completion; without a fence what begins like Python, to the end.

    Args:
        text: The completion.
        is_truncated: It was cut off: a block that is not closed is no answer.

    Examples:
        >>> text = "Sure:\n```python\nx = 1\n```\nThat is all."
        >>> text[slice(*find_code(text))]
        'x = 1\n'
    """
    place, last = 0, None
    while (opening := _FENCE.search(text, place)) is not None:
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            return last if is_truncated else (opening.end(), len(text))
        last, place = (opening.end(), closing.start()), closing.end()
    if last is not None or is_truncated:
        return last
    bare = _BARE.search(text)
    return (bare.start(), len(text)) if bare else None


def canonicalise_code(code: str) -> str | None:
    """A digest of what Python code says: its tree without comments, docstrings, annotations and local names.

    Returns:
        Equal texts for equal programs up to the names of arguments and local variables (those of a function and of
        the functions inside it are told apart by name alone); `None` for what is no Python or too long to read.

    Examples:
        >>> first = canonicalise_code("def add(a, b):\\n    return a+b  # sum")
        >>> first == canonicalise_code("def add(x: int, y: int) -> int:\\n    return x + y")
        True
        >>> first == canonicalise_code("def add(x, y):\\n    return y + x")
        False
    """
    if len(code) > MAX_CODE:
        return None
    try:
        # The filter of warnings is the process's: one thread at a time may change it and put it back.
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
        text = ast.dump(_Plain().visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if tree.body else None


class _Plain(ast.NodeTransformer):
    """Takes out what means nothing, and renames what each outermost function binds, by first appearance."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._plain_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._plain_function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        _drop_docstring(node)
        return self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        _drop_docstring(node)
        return self.generic_visit(node)

    def _plain_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                _drop_docstring(inner)
                inner.returns = None
            elif isinstance(inner, ast.arg):
                inner.annotation = None
        names = {name: f"${place}" for place, name in enumerate(_list_bound(node))}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                inner.id = names.get(inner.id, inner.id)
            elif isinstance(inner, ast.arg):
                inner.arg = names.get(inner.arg, inner.arg)
            elif _is_binding(inner, node) and inner.name is not None:
                inner.name = names.get(inner.name, inner.name)
            elif isinstance(inner, ast.Nonlocal):
                inner.names = [names.get(name, name) for name in inner.names]
        return node


def _list_bound(function: ast.AST) -> list[str]:
    """Arguments and names that a function binds, nested ones too, in the order of the tree."""
    bound: dict[str, None] = {}
    outside: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            bound[node.arg] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] = None
        elif _is_binding(node, function) and node.name is not None:
            bound[node.name] = None
        elif isinstance(node, ast.Global):
            outside.update(node.names)
    return [name for name in bound if name not in outside]


def _is_binding(
    node: ast.AST, function: ast.AST
) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef | ast.ExceptHandler]:
    """Whether a statement inside a function binds its own `name` there."""
    return node is not function and isinstance(
        node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ExceptHandler)
    )


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    value = first.value if isinstance(first, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        node.body = node.body[1:] or [ast.Pass()]
