"""Prometheus metrics: vLLM's suffixes where they exist, so that dashboards carry over, and those of programs beside."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from hf_dynasor.clock import Clock
from hf_dynasor.core import Usage
from hf_dynasor.grants import Answer

PREFIX = "hf_dynasor"
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        num_running: Units in the engine now.
        num_waiting: HTTP requests that wait now.
        num_programs: Programs that run now.
        read_cache: Share of the cache's pages in use, in [0, 1]; `None` for engines without pages.
        read_scheduling: Requests of a program that run together, and programs raised for waiting too long so far;
            `None` for engines that schedule no programs.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        *,
        num_running: Callable[[], float],
        num_waiting: Callable[[], float],
        read_cache: Callable[[], float] | None = None,
        read_scheduling: tuple[Callable[[], float], Callable[[], float]] | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self._gauge("num_requests_running", "Choices that the engine holds.").set_function(num_running)
        self._gauge("num_requests_waiting", "HTTP requests that wait for room.").set_function(num_waiting)
        if read_cache is not None:
            self._gauge("kv_cache_usage_perc", "Share of the cache's pages in use, 0 to 1.").set_function(
                read_cache
            )
        if read_scheduling is not None:
            size, raises = read_scheduling
            self._gauge("gang_size", "Requests of a program that run together, on average.").set_function(
                size
            )
            self._gauge("starvation_raises", "Programs raised for waiting too long so far.").set_function(
                raises
            )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.")
        self.cached_tokens = self._counter("prefix_cache_hits", "Prompt tokens found in the cache.")
        self.queried_tokens = self._counter("prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated for answers.")
        self.probe_tokens = self._counter("probe_tokens", "Tokens of probes, discarded.")
        self.reward_tokens = self._counter("reward_tokens", "Tokens read by a reward model.")
        self.saved_tokens = self._counter("saved_tokens", "Tokens that stopping early saved, by estimate.")
        self.request_success = self._counter(
            "request_success", "Requests that ended well, by reason.", ("finished_reason",)
        )
        self.request_failure = self._counter(
            "request_failure", "Requests that did not, by reason.", ("reason",)
        )
        self.admission_rejections = self._counter(
            "admission_rejections", "Requests that were not let in, by reason.", ("reason",)
        )
        self.engine_restarts = self._counter("engine_restarts", "Engines that died and were replaced.")
        self.time_to_first_token = self._histogram("time_to_first_token_seconds", "Arrival to first token.")
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "Between tokens of a choice."
        )
        self.request_latency = self._histogram("e2e_request_latency_seconds", "Arrival to end of a request.")
        self.queue_time = self._histogram("request_queue_time_seconds", "Arrival to admission.")
        self.request_prompt_tokens = self._histogram("request_prompt_tokens", "Prompt tokens.", _TOKENS)
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Tokens generated for one request.", _TOKENS
        )
        self.program_latency = self._histogram(
            "program_latency_seconds", "Arrival to answer of a program.", _SECONDS, ("program",)
        )
        self.program_stops = self._counter(
            "program_stops", "Programs that ended, by reason.", ("program", "stop_reason")
        )
        self.certaindex_at_stop = self._histogram(
            "certaindex_at_stop", "Certaindex when a program ended, by signal.", _SHARES, ("signal",)
        )
        self.program_units = self._histogram(
            "program_units", "Units of the knob that a program spent.", _TOKENS, ("program",)
        )

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def count_usage(self, usage: Usage) -> None:
        """Count the tokens of a request that ended."""
        self.prompt_tokens.inc(usage.prompt)
        self.queried_tokens.inc(usage.prompt)
        self.cached_tokens.inc(usage.cached)
        self.generation_tokens.inc(usage.sampled + usage.forced)
        self.probe_tokens.inc(usage.probe)
        self.reward_tokens.inc(usage.reward)

    def count_program(self, program: str, answer: Answer, seconds: float) -> None:
        """Count a program that ended with an answer."""
        self.program_latency.labels(program).observe(seconds)
        self.program_stops.labels(program, answer.stop_reason.value).inc()
        self.program_units.labels(program).observe(answer.units_spent)
        for signal, value in answer.certaindex.signals.items():
            self.certaindex_at_stop.labels(signal).observe(value)
        self.saved_tokens.inc(max(0, answer.full_budget_tokens - answer.usage.net_tokens))

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", words, registry=self.registry)

    def _counter(self, name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", words, labels, registry=self.registry)

    def _histogram(
        self,
        name: str,
        words: str,
        buckets: tuple[float, ...] = _SECONDS,
        labels: tuple[str, ...] = (),
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", words, labels, buckets=buckets, registry=self.registry)


class RequestLife:
    """The times of one HTTP request, told to the metrics as they pass."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics, self._clock = metrics, clock
        self._arrival = clock.now()
        self._last: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """Since it arrived."""
        return max(0.0, self._clock.now() - self._arrival)

    def note_admission(self) -> None:
        """It was let in."""
        self._metrics.queue_time.observe(self.seconds)

    def note_tokens(self, choice: int, count: int) -> None:
        """Tokens of a choice came."""
        if not count:
            return
        now = self._clock.now()
        if not self._last:
            self._metrics.time_to_first_token.observe(max(0.0, now - self._arrival))
        if choice in self._last:
            self._metrics.inter_token_latency.observe(max(0.0, now - self._last[choice]) / count)
        self._last[choice] = now

    def finish(self, usage: Usage, reasons: list[str]) -> None:
        """It ended well."""
        metrics = self._metrics
        metrics.count_usage(usage)
        metrics.request_latency.observe(self.seconds)
        metrics.request_prompt_tokens.observe(usage.prompt)
        metrics.request_generation_tokens.observe(usage.sampled + usage.forced)
        for reason in reasons:
            metrics.request_success.labels(reason).inc()

    def fail(self, reason: str) -> None:
        """It did not."""
        self._metrics.request_latency.observe(self.seconds)
        self._metrics.request_failure.labels(reason).inc()
