"""When programs arrive, in seconds from the start. Each is a pure function of a random generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from hf_dynasor.errors import ConfigurationError


class Arrivals(Protocol):
    """Times of arrival."""

    def draw(self, num_programs: int, rng: random.Random) -> list[float]:
        """So many times, ascending."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent arrivals (paper §5).

    Args:
        rate: Programs a second, above 0.
    """

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def draw(self, num_programs: int, rng: random.Random) -> list[float]:
        """Exponential gaps. For one generator seed the times at another rate are the same ones, scaled."""
        times, now = [], 0.0
        for _ in range(num_programs):
            now += rng.expovariate(1.0)
            times.append(now / self.rate)
        return times


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Groups of programs at once, the groups independent.

    Args:
        rate: Programs a second on average, above 0.
        size: Programs of a burst.
    """

    rate: float
    size: int = 10

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if self.size < 1:
            raise ConfigurationError(f"Got {self.size = } but expected at least 1.")

    def draw(self, num_programs: int, rng: random.Random) -> list[float]:
        """Bursts after exponential gaps."""
        times: list[float] = []
        now = 0.0
        while len(times) < num_programs:
            now += rng.expovariate(self.rate / self.size)
            times.extend([now] * min(self.size, num_programs - len(times)))
        return times


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedArrivals:
    """Times that were seen somewhere.

    Args:
        times: Seconds, ascending, at least 0.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if list(self.times) != sorted(self.times) or (self.times and self.times[0] < 0):
            raise ConfigurationError("Got recorded arrivals that are not ascending seconds from 0.")

    def draw(self, num_programs: int, rng: random.Random) -> list[float]:
        """The first so many."""
        if num_programs > len(self.times):
            raise ConfigurationError(
                f"Got {num_programs = } but {len(self.times)} arrivals were recorded. Ask for at most as many."
            )
        return list(self.times[:num_programs])


def at_once(num_programs: int) -> RecordedArrivals:
    """All programs at time 0: an offline batch."""
    return RecordedArrivals(times=(0.0,) * num_programs)


def _check_rate(rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise ConfigurationError(f"Got {rate = } but expected programs a second, above 0.")


__all__ = ["Arrivals", "Bursts", "Poisson", "RecordedArrivals", "at_once"]
