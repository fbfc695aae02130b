"""The one file that touches private names of transformers' continuous batching.

It knows requests by name, token ids and pages, but no prompts, texts or sampling. What it relies on is listed in
`RELIED_ON` and checked by a test; other releases of transformers are refused, not guessed at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching import continuous_api, scheduler
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import RequestStatus

from hf_dynasor.errors import EngineError, UnsupportedError

KNOWN_VERSIONS = ("5.23",)
_SCHEDULER_NAME = "hf_dynasor"
RELIED_ON = {
    continuous_api.ContinuousBatchingManager: (
        "warmup", "stop", "destroy", "add_request", "cancel_request", "_run_generation_loop",
    ),
    continuous_api.BackgroundThreadStatus: ("clear", "request_stop", "HARD_STOP"),
    continuous_api.OutputRouter: ("deliver", "deliver_batch"),
    scheduler.FIFOScheduler: (
        "_infer_request_tokens", "_schedule_request", "_get_waiting_candidates", "clear_cancelled_requests",
    ),
    ContinuousBatchingLogitsProcessor: ("fill_defaults", "prepare_tensor_args", "__call__"),
}  # fmt: skip


class Observer(Protocol):
    """What the loop tells while it runs, from its own thread."""

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """Choose the next token of each named request from logits of shape (requests, vocabulary)."""
        ...

    def mark_started(self, name: str) -> None:
        """Some of a request's prompt is about to be computed."""
        ...

    def count_reused(self, name: str, num_tokens: int) -> None:
        """So many tokens at the beginning of a request were found in shared pages."""
        ...

    def confirm_cancelled(self, names: Sequence[str]) -> None:
        """The requests are gone and their pages are free."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The loop is over, because of `error` if there is one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """How full the cache is, in pages of all layers together.

    Args:
        total: Pages of the cache.
        free: Those that nobody uses, kept ones included.
        kept: Those of the free ones that still hold a prefix for a later request.
    """

    total: int
    free: int
    kept: int


class PagedLoop:
    """A continuous-batching manager whose requests are drawn, counted and ended by an observer.

    transformers never ends a request by itself here: the observer does, by cancelling, which takes effect before
    the next step. So stop strings cost nothing, and pages that a request completed in its last step stay shared.

    Args:
        model: The model.
        observer: Who decides.
        page_size: Tokens of a page.
        num_blocks: Pages of the cache; `None` lets transformers fill the accelerator's free memory.
        max_batch_tokens: Most tokens of a step, likewise.
    """

    def __init__(
        self,
        model: Any,
        observer: Observer,
        *,
        page_size: int,
        num_blocks: int | None,
        max_batch_tokens: int | None,
    ) -> None:
        is_cuda = model.device.type == "cuda"
        config = ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_requests_per_batch=min(256, max_batch_tokens or 256),
            scheduler_type=_SCHEDULER_NAME,
            use_async_batching=False,  # tokens are drawn by the observer, on the host
            use_cuda_graph=False,
            auto_switch_to_flash=is_cuda,
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self._observer = observer
        self._manager = model.init_continuous_batching(generation, config)
        self._manager.output_router = _Router()
        self._manager.logit_processor = _make_processors(observer)
        self._manager.warmup()  # makes the cache; without CUDA graphs it computes nothing
        self._processor = self._manager.batch_processor
        self._processor.scheduler.observer = observer
        self._processor.scheduler.page_size = page_size
        self._page_size = page_size
        self._thread = threading.Thread(target=self._run, name="hf_dynasor-paged-loop", daemon=True)

    @property
    def capacity(self) -> int:
        """Tokens that the cache holds."""
        return int(self._processor.cache.num_blocks) * self._page_size

    def count_pages(self) -> Pages:
        """How full the cache is now."""
        allocators = list(self._processor.cache.cache_allocators.values())
        pool = self._processor.cache.pool
        kept = sum(len(allocator.ledger.cached_blocks) for allocator in allocators)
        unassigned = sum(pool.count_free_blocks(allocator.index) for allocator in allocators)
        in_sectors = pool.num_free_sectors * allocators[0].blocks_per_sector
        total = sum(allocator.num_blocks for allocator in allocators)
        return Pages(total=total, free=unassigned + in_sectors + kept, kept=kept)

    def start(self) -> None:
        """Run the loop in a daemon thread, which does not keep the interpreter alive."""
        self._manager.background_thread_status.clear()
        self._manager._generation_thread = self._thread
        self._thread.start()

    def add(self, name: str, ids: Sequence[int], max_new_tokens: int) -> None:
        """Queue a request under a name that was never used before."""
        # One more than wanted: the observer ends it first.
        if self._manager.add_request(list(ids), request_id=name, max_new_tokens=max_new_tokens + 1) is None:
            raise EngineError("Continuous batching has stopped and takes no requests.")

    def cancel(self, name: str) -> None:
        """Drop a request before the next step."""
        self._manager.cancel_request(name)

    def stop(self, timeout_s: float) -> bool:
        """End the loop at its next step; returns whether it ended within the time."""
        if self._thread is threading.current_thread() or not self._thread.ident:
            self._manager.background_thread_status.request_stop(
                continuous_api.BackgroundThreadStatus.HARD_STOP, 0
            )
            return True
        self._manager.stop(block=True, timeout=timeout_s, hard_stop=True)
        self._manager.destroy()
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._manager._run_generation_loop()
        finally:
            self._observer.end(self._manager.background_thread_status.fatal_error)


def check_supported(model: Any, name: str) -> None:
    """Raise `UnsupportedError` if continuous batching cannot run a model here, naming the engine that can."""
    advice = "Use GenerateEngine instead (engine='generate')."
    version = transformers.__version__
    if not version.startswith(tuple(f"{known}." for known in KNOWN_VERSIONS)):
        known = ", ".join(KNOWN_VERSIONS)
        raise UnsupportedError(
            f"ContinuousBatchingEngine knows the internals of transformers {known} but found {version}. {advice}"
        )
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedError(f"The attention of {name} cannot read shared pages. {advice}")
    missing = [
        f"{owner.__name__}.{attribute}"
        for owner, names in RELIED_ON.items()
        for attribute in names
        if not hasattr(owner, attribute)
    ]
    if missing:
        raise UnsupportedError(f"transformers {version} has no {', '.join(missing)}. {advice}")


class _Router(continuous_api.OutputRouter):  # type: ignore[misc]
    """Drops results: the observer has seen every token, and is told of the loop's end."""

    def deliver(self, output: Any) -> None:
        pass

    def deliver_batch(self, outputs: Any) -> None:
        pass


class _ObservedScheduler(scheduler.FIFOScheduler):  # type: ignore[misc]
    """First in, first out, and tells what it did. Of equal prompts the first is computed, then the others share it."""

    observer: Observer
    page_size: int

    def _get_waiting_candidates(self) -> list[Any]:
        candidates = super()._get_waiting_candidates()
        if not self.cache.use_prefix_sharing or not candidates:
            return list(candidates)
        active = self.active_requests.values()
        taken = {tuple(state.initial_tokens) for state in active if state.status == RequestStatus.PREFILLING}
        chosen = []
        for state in candidates:
            prompt = tuple(state.initial_tokens)
            if prompt not in taken or len(prompt) <= self.page_size:  # less than a page is never shared
                chosen.append(state)
            taken.add(prompt)
        return chosen

    def _infer_request_tokens(self, state: Any, request_ids_to_remove_from_waiting: set[str]) -> Any:
        is_new, before = state.status == RequestStatus.PENDING, state.position_offset
        tokens = super()._infer_request_tokens(state, request_ids_to_remove_from_waiting)
        if is_new:
            self.observer.count_reused(state.request_id, state.position_offset - before)
        return tokens

    def _schedule_request(self, state: Any, *args: Any) -> None:
        self.observer.mark_started(state.request_id)
        super()._schedule_request(state, *args)

    def clear_cancelled_requests(self) -> Any:
        states = super().clear_cancelled_requests()
        if states:
            # transformers lets waiting requests in again only when one finishes; here all of them end by cancelling.
            self.block_new_requests = False
            self.observer.confirm_cancelled([state.request_id for state in states])
        return states


class _ObserverDraws(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Lets the observer choose and leaves nothing else possible."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - the base class's own form
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, draw: Callable[[Sequence[str], torch.Tensor], list[int]]) -> None:
        self._draw = draw
        self._names: list[str] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        self._names = [request.state.request_id for request in requests_with_new_token]
        return torch.empty(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        count = len(self._names)
        only = torch.full_like(scores, float("-inf"))
        if count:
            tokens = torch.tensor(self._draw(self._names, scores[:count]), device=scores.device)
            only[:count].scatter_(1, tokens[:, None], 0.0)
        return only


scheduler.SCHEDULER_MAPPING[_SCHEDULER_NAME] = _ObservedScheduler


def _make_processors(observer: Observer) -> Any:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_ObserverDraws(observer.draw)]))
    processors.tensors_required = 1
    return processors
