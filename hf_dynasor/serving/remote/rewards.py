"""Reward models on a server: vLLM's `/score`, `/classify` and `/pooling`. Answers `Score` requests of any engine."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import httpx

from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.errors import ConfigurationError, EngineError, name_unknown
from hf_dynasor.serving.remote.address import read_address
from hf_dynasor.serving.remote.exchange import Bounds
from hf_dynasor.serving.remote.failures import RemoteFailure, broken, read_status, read_transport_error
from hf_dynasor.serving.remote.probing import look_at_server
from hf_dynasor.serving.remote.retries import RetryPolicy
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput

Route: TypeAlias = Literal["/score", "/classify", "/pooling"]
ROUTES: tuple[Route, ...] = get_args(Route)
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenStep(EncodedStep):
    """A step as texts.

    Args:
        messages: The conversation that asks the question.
        question: Its last turn.
        answer: What was written so far, the rated step at its end.
    """

    messages: tuple[tuple[str, str], ...]
    question: str
    answer: str

    @property
    def num_tokens(self) -> int:
        """Roughly, to bound a batch."""
        return (len(self.question) + len(self.answer)) // _CHARACTERS_PER_TOKEN + 1


class RemoteReward:
    """Rates steps on a server, a batch in one request.

    `/score` reads the question and what was written as a pair (`text_1`, `text_2`), `/classify` both as one text (`input`),
    `/pooling` as a conversation (`messages`), one request for each step.

    Args:
        url: The address, which ends in `/v1`.
        model: What the server calls it; `None` takes its only one.
        route: Which of the three; `auto` takes the first that the server documents.
        label: Of `/classify`: the class whose probability is the score; `None` takes the last one.
        api_key: `None` takes it from the environment, as `RemoteEngine` does.
        retries: When a batch is sent again.
        bounds: How long things may take.
        clock, rng, sleep, wall_time: Time and randomness, for retries.
        transport: What stands in for the network in tests.

    Raises:
        EngineError: There is no server there, or not now.
        ConfigurationError: It has none of the routes, or not that model.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        route: Route | Literal["auto"] = "auto",
        label: int | None = None,
        api_key: str | None = None,
        retries: RetryPolicy | None = None,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        wall_time: Callable[[], float] = time.time,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if route != "auto" and route not in ROUTES:
            raise name_unknown("route", route, ["auto", *ROUTES])
        self._address = read_address(url, api_key)
        self._bounds = bounds or Bounds()
        found = look_at_server(
            self._address,
            model=model,
            dialect="vllm",
            timeout_s=self._bounds.connect_s,
            transport=transport,
        )
        self._model, self._label = found.model, label
        self.route: Route = _choose_route(route, found.routes, self._address.base_url)
        self._retries, self._clock = retries or RetryPolicy(), clock or MonotonicClock()
        self._rng, self._sleep, self._wall_time = rng or random.Random(), sleep, wall_time
        self._transport = transport

    @property
    def name(self) -> str:
        """Such as `rm at 127.0.0.1:9000/score`."""
        return f"{self._model} at {self._address.label}{self.route}"

    @property
    def normaliser(self) -> str:
        """How the server's number becomes one in [0, 1]."""
        return {
            "/score": "the score itself, a sigmoid where it is outside [0, 1]",
            "/classify": f"the probability of class {self._label if self._label is not None else 'last'}",
            "/pooling": "the last number, a sigmoid where it is outside [0, 1]; of several, a softmax's last",
        }[self.route]

    def encode(self, step: StepInput) -> WrittenStep:
        """The texts that the server reads."""
        messages = tuple((turn["role"], turn["content"]) for turn in step.messages)
        return WrittenStep(messages=messages, question=step.question, answer=step.written)

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """Rate steps, in order.

        Raises:
            EngineError: The server did not answer, however often it was asked.
        """
        written = [step for step in steps if isinstance(step, WrittenStep)]
        if len(written) < len(steps):
            raise ConfigurationError("Got a step that another reward model has encoded.")
        groups = [[step] for step in written] if self.route == "/pooling" else [written]
        with httpx.Client(
            headers=self._address.headers, timeout=self._bounds.timeout, transport=self._transport
        ) as client:
            return [rating for group in groups for rating in self._ask(client, group)]

    def _ask(self, client: httpx.Client, steps: Sequence[WrittenStep]) -> list[Rating]:
        failed_at: float | None = None
        num_failed = 0
        while True:
            try:
                return self._ask_once(client, steps)
            except RemoteFailure as failure:
                num_failed += 1
                now = self._clock.now()
                failed_at = now if failed_at is None else failed_at
                delay = self._retries.find_delay(
                    num_failed=num_failed,
                    elapsed_s=now - failed_at,
                    retry_after_s=failure.retry_after_s,
                    rng=self._rng,
                )
                if not failure.is_transient or delay is None:
                    raise EngineError(
                        f"{self.name}: {failure} Given up after {num_failed} attempts."
                    ) from None
            self._sleep(delay)

    def _ask_once(self, client: httpx.Client, steps: Sequence[WrittenStep]) -> list[Rating]:
        url = self._address.base_url
        try:
            reply = client.post(f"{self._address.root}{self.route}", json=self._shape(steps))
        except httpx.HTTPError as error:
            raise read_transport_error(error, url) from None
        if reply.status_code >= 300:
            raise read_status(reply.status_code, reply.headers, reply.text, url, now=self._wall_time())
        try:
            return self._read(reply.json(), steps)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise broken(f"{self.route} answered {reply.text[:80]!r} ({type(error).__name__}).") from None

    def _shape(self, steps: Sequence[WrittenStep]) -> dict[str, Any]:
        if self.route == "/score":
            return {
                "model": self._model,
                "text_1": [step.question for step in steps],
                "text_2": [step.answer for step in steps],
            }
        if self.route == "/classify":
            return {"model": self._model, "input": [f"{step.question}\n\n{step.answer}" for step in steps]}
        (step,) = steps
        messages = [{"role": role, "content": content} for role, content in step.messages]
        return {
            "model": self._model,
            "messages": [*messages, {"role": "assistant", "content": step.answer}],
            "add_generation_prompt": False,
        }

    def _read(self, answer: Mapping[str, Any], steps: Sequence[WrittenStep]) -> list[Rating]:
        rows = sorted(answer["data"], key=lambda row: int(row.get("index", 0)))
        if len(rows) != len(steps):
            raise ValueError(f"{len(rows)} scores for {len(steps)} steps")
        counted = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        reads = _share(counted, [step.num_tokens for step in steps])
        return [
            Rating(score=self._find_score(row), num_read=num_read)
            for row, num_read in zip(rows, reads, strict=True)
        ]

    def _find_score(self, row: Mapping[str, Any]) -> float:
        if self.route == "/score":
            return _squash(float(row["score"]))
        if self.route == "/classify":
            return float(row["probs"][-1 if self._label is None else self._label])
        numbers = row["data"]
        while isinstance(numbers[-1], list):  # of every token: the last one has read everything
            numbers = numbers[-1]
        return _squash(float(numbers[0])) if len(numbers) == 1 else _softmax_last(numbers)


def _choose_route(asked: Route | Literal["auto"], routes: frozenset[str], url: str) -> Route:
    if asked != "auto":
        return asked
    for route in ROUTES:
        if route in routes:
            return route
    known = "none that it tells" if not routes else "none of these"
    raise ConfigurationError(
        f"The reward server {url} has {known}: {', '.join(ROUTES)}. Serve a reward model there (vLLM: --runner pooling), or "
        "name the route: RemoteReward(url, route=...)."
    )


def _share(total: int, weights: Sequence[int]) -> list[int]:
    """A batch's tokens by step, in the ratio of their lengths; the sum is kept."""
    if not total:
        return list(weights)
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    shares[-1] += total - sum(shares)
    return shares


def _squash(value: float) -> float:
    return value if 0.0 <= value <= 1.0 else 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, value))))


def _softmax_last(values: Sequence[float]) -> float:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return weights[-1] / sum(weights)
