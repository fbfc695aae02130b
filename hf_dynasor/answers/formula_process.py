"""The formula process: reads one JSON request a line, answers one JSON line. Run by path, never imported by others.

A formula's canonical form is its value. A constant becomes an exact rational or its first 25 digits; an
expression with symbols becomes its values at three fixed points that depend on the symbols' names alone. Two
spellings of one function agree at every point, and two different functions do not agree at three such points, up to
a chance below 1e-20. That needs no `simplify`, which is neither complete nor bounded. What has no value (open
sums, unknown functions) becomes its expanded text.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import sys
import threading
from fractions import Fraction
from typing import Any

DIGITS = 25
WORKING_DIGITS = DIGITS + 10
NUM_POINTS = 3
MAX_EXACT = 10**200
MAX_DENOMINATOR = 10**6
MAX_MEMORY = 4 * 2**30


def main() -> None:
    """Serves requests until the parent goes away."""
    _limit_memory()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    import latex2sympy2_extended
    import math_verify  # noqa: F401  (imported before "ready", so that no request pays for it)

    print(json.dumps(["ready", latex2sympy2_extended.__name__]), file=output, flush=True)
    while True:
        message = requests.get()
        _set_timers(message["processor_time"], message["clock_time"] + 1.0)
        reply = _reply(*message["request"])
        _set_timers(0.0, 0.0)
        print(json.dumps(reply), file=output, flush=True)


def _receive(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Ends the process, also in the middle of a computation, once the parent has closed its end."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


def _set_timers(processor_time: float, clock_time: float) -> None:
    """Lets the system end this process, by the default action of the timers' signals.

    No handler would run inside compiled code. The clock counts only if the parent no longer can: it waits less.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, processor_time)
        signal.setitimer(signal.ITIMER_REAL, clock_time)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit is the only bound
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _reply(operation: str, *texts: str) -> object:
    # Broad on purpose: parser and sympy raise whatever their internals raise (RecursionError, MemoryError,
    # TypeError, bare Exception), and each of these means only "no canonical form".
    try:
        if operation == "canonicalise":
            return [sorted(set(canonicalise_formula(text))) for text in texts]
        return verify(*texts)
    except Exception:  # noqa: BLE001
        return None


def verify(reference: str, answer: str) -> bool:
    """math-verify's judgement, its own time limits (signals) switched off: this process has one."""
    import math_verify

    parsed = [math_verify.parse(f"${text}$", parsing_timeout=None) for text in (reference, answer)]
    return bool(math_verify.verify(*parsed, timeout_seconds=None))


def canonicalise_formula(text: str) -> list[str]:
    """The canonical members of a formula: one, or several for a set such as `1 \\pm \\sqrt{2}`.

    Raises:
        ValueError: If the formula has no canonical form; also whatever the parser and sympy raise.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    config = ConversionConfig(lowercase_symbols=False)
    parsed = latex2sympy(text, is_real=None, normalization_config=None, conversion_config=config)
    return _canonicalise_object(parsed)


def _canonicalise_object(value: Any) -> list[str]:
    import sympy
    from sympy.core.relational import Relational

    if isinstance(value, sympy.FiniteSet):
        return [member for element in value.args for member in _canonicalise_object(element)]
    if isinstance(value, sympy.And):
        return [" & ".join(sorted(_canonicalise_relation(part) for part in value.args))]
    if isinstance(value, Relational):
        return [_canonicalise_relation(value)]
    if isinstance(value, sympy.MatrixBase):
        rows = [[_canonicalise_expression(cell) for cell in row] for row in value.tolist()]
        return ["|" + ", ".join("|" + ", ".join(row) + "|" for row in rows) + "|"]
    if isinstance(value, sympy.Expr):
        return [_canonicalise_expression(value)]
    return [str(value)]


def _canonicalise_expression(expression: Any) -> str:
    expression = _prepare(expression)
    if not expression.free_symbols:
        return _canonicalise_constant(expression)
    values = _evaluate(expression)
    if values is None:
        expression = expression.doit()
        values = _evaluate(expression)
    if values is None:
        return f"text {expression.expand()}"
    texts = [_to_text(value) for value in values]
    return _canonicalise_constant(values[0]) if len(set(texts)) == 1 else f"f[{'; '.join(texts)}]"


def _canonicalise_relation(relation: Any) -> str:
    """A relation up to what is done to both sides: moved over, scaled, turned round."""
    import sympy

    name = type(relation).__name__
    left, right = relation.lhs, relation.rhs
    if name in ("StrictLessThan", "LessThan"):
        left, right, name = right, left, {"StrictLessThan": "StrictGreaterThan"}.get(name, "GreaterThan")
    difference = _prepare(left - right)
    values = _evaluate(difference) if difference.free_symbols else None
    if values is None or values[0] == 0:
        return f"{name}({_canonicalise_expression(left)}, {_canonicalise_expression(right)})"
    has_sides = not isinstance(relation, (sympy.Eq, sympy.Ne))
    scale = abs(values[0]) if has_sides else values[0]
    return f"{name}[{'; '.join(_to_text(value / scale) for value in values)}]"


def _prepare(expression: Any) -> Any:
    """Decimals as exact rationals, and the letter i as the imaginary unit."""
    import sympy

    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    exact.update({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})
    return expression.xreplace(exact)


def _evaluate(expression: Any) -> list[Any] | None:
    """The value at each fixed point; None where there is no finite one at some point."""
    values = []
    for trial in range(NUM_POINTS):
        point = {symbol: _coordinate(symbol.name, trial) for symbol in expression.free_symbols}
        value = expression.evalf(WORKING_DIGITS, subs=point, maxn=400)
        if not value.is_number or not value.is_finite:
            return None
        values.append(value)
    return values


def _coordinate(name: str, trial: int) -> Any:
    """A rational that belongs to a symbol's name: small, negative in one trial, never an integer."""
    import sympy

    number = int.from_bytes(hashlib.sha256(f"{trial}:{name}".encode()).digest()[:2], "big")
    offset = sympy.Rational(2 * number + 1, 2**17)
    return (offset + sympy.Rational(1, 7), -offset - sympy.Rational(1, 5), offset + 2)[trial]


def _canonicalise_constant(expression: Any) -> str:
    """An exact rational where the value is one, else its first digits."""
    value = expression.evalf(WORKING_DIGITS, maxn=400)
    if not value.is_number or not value.is_finite:
        raise ValueError("not a finite number")
    if value.is_real and abs(value) < MAX_EXACT:
        exact = expression.doit()
        if exact.is_Rational:
            return str(exact)
        simple = Fraction(str(value)).limit_denominator(MAX_DENOMINATOR)
        if abs(value - simple) * 10 ** (DIGITS + 3) <= abs(value):
            return str(simple)
    return _to_text(value)


def _to_text(value: Any) -> str:
    """A number's first digits, real and imaginary part apart."""
    real, imaginary = (_round(part) for part in value.as_real_imag())
    return real if imaginary == "0" else f"{real} + {imaginary} i"


def _round(value: Any) -> str:
    import sympy

    # Precision 1 is what sympy leaves where everything cancelled.
    if value == 0 or (value.is_Float and value._prec == 1):
        return "0"
    digits, _, exponent = str(sympy.Float(value, DIGITS)).partition("e")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits}e{exponent}" if exponent else digits


if __name__ == "__main__":
    folder = os.path.dirname(os.path.realpath(__file__))  # its module names are not top-level ones
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != folder]
    main()
