"""Exact and concentration tests for a mean loss, and the bounds that they give. Pure maths on plain floats.

Every test asks the same: if the mean loss of *all* questions were `risk` or more, how likely would losses as low as
these be? A small p-value says that the mean loss is below `risk`. Each loss belongs to one question, and questions
are independent draws; several draws of one question are averaged first, since they are not independent.

| bound | losses | where it is exact or tight |
|---|---|---|
| `binomial` | 0 or 1 | exact (the tail behind Clopper and Pearson's interval, 1934) |
| `hoeffding_bentkus` | in [0, 1] | small means (Hoeffding 1963, Bentkus 2004; combined by Bates et al. 2021) |
| `betting` | in [-1, 1] | small variance: a bet whose fair capital bounds the chance (Waudby-Smith, Ramdas 2024) |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from hf_dynasor.errors import ConfigurationError, name_unknown

Bound = Literal["binomial", "hoeffding_bentkus", "betting"]

_BETS = (1.0, *(step / 16 for step in range(15, 0, -1)))
"""Shares of the largest bet that can never lose more than everything; half of the capital goes to the first."""

_ROUNDING = 1e-9
"""Sums of mean losses carry rounding errors far below this; no mean over so many draws lies this close to a whole."""


def log_binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Natural log of P(X <= successes) for X binomial; safe where the tail itself would underflow.

    The smaller of the two tails is summed from its largest term, which is computed by Loader's method (2000), so
    the relative error stays near rounding for any number of trials.

    Args:
        successes: Whole number; below 0 the tail is empty.
        trials: Number of independent trials, at least 0.
        chance: Of a success, in [0, 1].

    Examples:
        >>> round(math.exp(log_binomial_tail(0, 114, 0.02)), 4)
        0.0999
    """
    if trials < 0 or not 0 <= chance <= 1:
        raise ConfigurationError(f"Got {trials = } and {chance = } but expected >= 0 and a number in [0, 1].")
    if successes < 0:
        return -math.inf
    if successes >= trials or chance == 0:
        return 0.0
    if chance == 1:
        return -math.inf
    if successes <= trials * chance:
        return min(0.0, _log_sum_outwards(successes, trials, chance))
    upper = _log_sum_outwards(trials - successes - 1, trials, 1 - chance)  # P(X > successes), by failures
    return math.log1p(-math.exp(upper)) if upper < 0 else -math.inf


def binomial_p_value(losses: Sequence[float], risk: float) -> float:
    """Exact chance of so few losses among so many questions if each were lost with probability `risk`.

    Raises:
        ConfigurationError: A loss is neither 0 nor 1.
    """
    if any(loss not in (0, 1) for loss in losses):
        raise ConfigurationError(
            "Got a loss that is neither 0 nor 1; the bound 'binomial' is for those only."
        )
    return math.exp(log_binomial_tail(int(sum(losses)), len(losses), risk))


def hoeffding_bentkus_p_value(losses: Sequence[float], risk: float) -> float:
    """The smaller of Hoeffding's and Bentkus' bounds on the chance of so low a mean; for losses in [0, 1].

    Examples:
        >>> round(hoeffding_bentkus_p_value([0.0] * 114, 0.02), 4)
        0.0999
    """
    _check_range(losses, 0.0)
    total, number = math.fsum(losses), len(losses)
    hoeffding = -number * _relative_entropy(min(total / number, risk), risk)
    bentkus = 1 + log_binomial_tail(math.ceil(total - _ROUNDING), number, risk)
    return math.exp(min(0.0, hoeffding, bentkus))


def betting_p_value(losses: Sequence[float], risk: float) -> float:
    """One over the capital of bets against "the mean is `risk` or more"; for losses in [-1, 1].

    A bet c multiplies its capital by 1 + c (risk - loss) / (1 - risk) at each question: 1 or less on average if the
    mean is `risk` or more, never negative. A fixed mixture of bets does not depend on the order of the questions,
    and by Markov's inequality its capital exceeds 1/p with probability p at most.
    """
    _check_range(losses, -1.0)
    counts = Counter(losses)
    weights = (0.5, *([0.5 / (len(_BETS) - 1)] * (len(_BETS) - 1)))
    logs = [
        math.log(weight) + _log_capital(bet, counts, risk) for bet, weight in zip(_BETS, weights, strict=True)
    ]
    largest = max(logs)
    if largest == -math.inf:
        return 1.0
    capital = largest + math.log(math.fsum(math.exp(value - largest) for value in logs))
    return math.exp(min(0.0, -capital))


_TESTS: dict[Bound, Callable[[Sequence[float], float], float]] = {
    "binomial": binomial_p_value,
    "hoeffding_bentkus": hoeffding_bentkus_p_value,
    "betting": betting_p_value,
}


def p_value(losses: Sequence[float], risk: float, *, bound: Bound) -> float:
    """Largest chance of losses as low as these if their mean over all questions were `risk` or more.

    Args:
        losses: One for each question, at least one; see the table above for their range.
        risk: In (0, 1), or in (-1, 1) for `betting`.
        bound: Which test. Choose it by how the losses came about, never by looking at them: the exact one needs
            losses that *can* only be 0 or 1.

    Raises:
        ConfigurationError: No loss, a loss or risk outside its range, an unknown bound.
    """
    if bound not in get_args(Bound):
        raise name_unknown("bound", bound, get_args(Bound))
    lowest = -1 if bound == "betting" else 0
    if not lowest < risk < 1:
        raise ConfigurationError(f"Got {risk = } but expected a number in ({lowest}, 1).")
    if not losses:
        raise ConfigurationError("Got no losses but expected one for each question.")
    return min(1.0, _TESTS[bound](losses, risk))


def p_value_above(losses: Sequence[float], risk: float, *, bound: Bound) -> float:
    """The opposite question: the chance of losses as *high* as these if their mean were `risk` or less."""
    if bound == "betting":
        return p_value([-loss for loss in losses], -risk, bound=bound)
    return p_value([1 - loss for loss in losses], 1 - risk, bound=bound)


def upper_bound(losses: Sequence[float], confidence: float, *, bound: Bound) -> float:
    """The mean loss that is not exceeded with this confidence: the smallest that the test rejects.

    For `binomial` this is Clopper and Pearson's one-sided bound.

    Examples:
        >>> round(upper_bound([0.0] * 114, 0.9, bound="binomial"), 4)
        0.02
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"Got {confidence = } but expected a number in (0, 1).")
    low, high = (-1.0 if bound == "betting" else 0.0), 1.0
    for _ in range(50):  # halves the interval each time: far below what is ever printed
        middle = (low + high) / 2
        if p_value(losses, middle, bound=bound) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def count_needed(risk: float, level: float, *, bound: Bound = "binomial") -> int:
    """Least number of questions, none of them lost, that can certify `risk` at this level.

    Args:
        risk: In (0, 1).
        level: Chance of a false certificate, in (0, 1): 1 - confidence, or the share of it that a test gets.
        bound: Which test.

    Examples:
        >>> count_needed(0.02, 0.1)
        114
    """
    if not 0 < risk < 1 or not 0 < level < 1:
        raise ConfigurationError(f"Got {risk = } and {level = } but expected numbers in (0, 1).")
    low, high = 0, 1
    while _best_p_value(high, risk, bound) > level:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _best_p_value(middle, risk, bound) > level:
            low = middle
        else:
            high = middle
    return high


def _best_p_value(number: int, risk: float, bound: Bound) -> float:
    """The p-value of so many losses of 0, without writing them down."""
    if bound == "betting":
        growth = [number * math.log1p(bet * risk / (1 - risk)) for bet in _BETS]
        rest = math.fsum(math.exp(value - growth[0]) for value in growth[1:]) / (len(_BETS) - 1)
        return math.exp(min(0.0, -growth[0] - math.log(0.5 + 0.5 * rest)))
    return math.exp(number * math.log1p(-risk))


def _log_sum_outwards(successes: int, trials: int, chance: float) -> float:
    """log P(X <= successes) where successes is not above the mean: its terms fall from the first on."""
    term, total = 1.0, 1.0
    odds = (1 - chance) / chance
    for count in range(successes, 0, -1):
        term *= odds * count / (trials - count + 1)
        total += term
        if term < total * 1e-18:
            break
    return _log_binomial_mass(successes, trials, chance) + math.log(total)


def _log_binomial_mass(successes: int, trials: int, chance: float) -> float:
    if successes == 0:
        return trials * math.log1p(-chance)
    if successes == trials:
        return trials * math.log(chance)
    failures = trials - successes
    exponent = (
        _stirling_error(trials)
        - _stirling_error(successes)
        - _stirling_error(failures)
        - _deviance(successes, trials * chance)
        - _deviance(failures, trials * (1 - chance))
    )
    return exponent + 0.5 * math.log(trials / (2 * math.pi * successes * failures))


def _stirling_error(number: int) -> float:
    """log n! minus Stirling's formula; its series where the subtraction would cancel."""
    if number < 16:
        stirling = (number + 0.5) * math.log(number) - number + 0.5 * math.log(2 * math.pi)
        return math.lgamma(number + 1) - stirling
    square = number * number
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / number


def _deviance(count: float, mean: float) -> float:
    """count log(count / mean) + mean - count, by a series where the two are close."""
    if abs(count - mean) >= 0.1 * (count + mean):
        return count * math.log(count / mean) + mean - count
    ratio = (count - mean) / (count + mean)
    total, power = (count - mean) * ratio, 2 * count * ratio
    for order in range(3, 100, 2):
        power *= ratio * ratio
        if total + power / order == total:
            break
        total += power / order
    return total


def _relative_entropy(first: float, second: float) -> float:
    """Of two coins, in nats; `second` in (0, 1)."""
    rest = (1 - first) * math.log((1 - first) / (1 - second)) if first < 1 else 0.0
    return (first * math.log(first / second) if first > 0 else 0.0) + rest


def _log_capital(bet: float, counts: Counter[float], risk: float) -> float:
    factors = [(1 + bet * (risk - loss) / (1 - risk), number) for loss, number in counts.items()]
    if any(
        factor <= 1e-15 for factor, _ in factors
    ):  # 0 but for rounding: the whole capital was bet and lost
        return -math.inf
    return math.fsum(number * math.log(factor) for factor, number in factors)


def _check_range(losses: Sequence[float], lowest: float) -> None:
    for loss in losses:
        if not lowest <= loss <= 1:
            raise ConfigurationError(f"Got {loss = } but expected a number in [{lowest:g}, 1].")
