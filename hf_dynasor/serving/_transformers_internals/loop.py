"""A continuous-batching manager in a thread of ours."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import continuous_api

from hf_dynasor.errors import EngineError
from hf_dynasor.serving._transformers_internals.attention import PagedManager, forget_rows, prepare_steps
from hf_dynasor.serving._transformers_internals.idle import IdleBell, trim_heap
from hf_dynasor.serving._transformers_internals.observed import (
    SCHEDULER_NAME,
    Observer,
    ObserverDraws,
    SilentRouter,
    make_processors,
)
from hf_dynasor.serving._transformers_internals.shared import Exchange, NeverIdle, SharedDecisions

GROUP_TIMEOUT_S = 60.0
"""Seconds that the processes of a shard group wait for one that says nothing."""

logger = logging.getLogger(__name__)


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
    A model that is split over processes has a loop in each of them, and the driver's observer decides for all.

    Args:
        model: The model.
        observer: Who decides; in a process that follows a driver, who hears what happens.
        page_size: Tokens of a page.
        num_blocks: Pages of the cache; `None` lets transformers fill the accelerator's free memory.
        max_batch_tokens: Most tokens of a step, likewise.
        max_batch_requests: Most requests of a step; `None` means 256.

    Attributes:
        capacity: Tokens that the cache holds.
        max_batch_tokens, max_batch_requests: What transformers made of them.
    """

    def __init__(
        self,
        model: Any,
        observer: Observer,
        *,
        page_size: int,
        num_blocks: int | None,
        max_batch_tokens: int | None,
        max_batch_requests: int | None = None,
    ) -> None:
        is_cuda = model.device.type == "cuda"
        config = ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_requests_per_batch=min(max_batch_requests or 256, max_batch_tokens or 256),
            scheduler_type=SCHEDULER_NAME,
            use_async_batching=False,  # tokens are drawn by the observer, on the host
            use_cuda_graph=False,
            auto_switch_to_flash=is_cuda,
            cpu_group_timeout=GROUP_TIMEOUT_S,
            disable_nccl_graph_mixing=is_cuda,
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        with torch.no_grad():
            self._manager = PagedManager(model, generation, config)
        self._observer = observer = self._share(observer, config.max_requests_per_batch)
        self._manager.output_router = SilentRouter()
        draws = ObserverDraws(observer.draw)
        self._manager.logit_processor = make_processors(draws)
        with ExitStack() as undo:
            undo.callback(self._manager.give_attention_back)
            self._manager.warmup()  # makes the cache; without CUDA graphs it computes nothing
            undo.pop_all()
        self._processor: Any = self._manager.batch_processor
        self._processor.model_runner._sample = draws.hand_over
        if self._manager.runs_our_attention:
            prepare_steps(self._processor)
        self._processor.scheduler.observer = observer
        self._processor.scheduler.page_size = page_size
        self.max_batch_tokens = int(self._processor.max_batch_tokens)
        self.max_batch_requests = int(self._processor.scheduler.max_requests_per_batch)
        self.capacity = int(self._processor.cache.num_blocks) * page_size
        self._thread = threading.Thread(target=self._run, name="hf_dynasor-paged-loop", daemon=True)

    @property
    def thread(self) -> threading.Thread:
        """The one that runs the model."""
        return self._thread

    def count_pages(self) -> Pages:
        """How full the cache is now; it is gone when the loop was stopped."""
        if self._processor is None:
            return Pages(total=0, free=0, kept=0)
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
        if not self._thread.ident:  # never started
            self._manager.give_attention_back()
            self._manager.batch_processor = self._processor = None
            return True
        if self._thread is threading.current_thread():
            self._manager.background_thread_status.request_stop(
                continuous_api.BackgroundThreadStatus.HARD_STOP, 0
            )
            return True
        self._manager.stop(block=True, timeout=timeout_s, hard_stop=True)
        is_over = not self._thread.is_alive()
        if is_over:
            self._manager.destroy()
            self._processor = None  # frees the pages
        return is_over

    def join(self) -> None:
        """Wait for the loop's end."""
        self._thread.join()

    def _share(self, observer: Observer, max_requests: int) -> Observer:
        helper = self._manager.distributed_helper
        if helper.tp_size == 1:
            self._manager._wake_up_loop = IdleBell(self._give_memory_back)
            return observer
        if not helper.is_tp_driver:
            self._manager._wake_up_loop = NeverIdle()
        return SharedDecisions(observer, Exchange(helper, max_requests))

    def _give_memory_back(self) -> None:
        if (processor := self._processor) is not None:
            forget_rows(processor)
        trim_heap()

    def _run(self) -> None:
        try:
            self._manager._run_generation_loop()
        except RuntimeError as error:
            if self._manager.background_thread_status.fatal_error is None:
                raise
            logger.debug("The end could not be told to the shard group: %s", error)
        finally:
            self._manager.give_attention_back()
            self._observer.end(self._manager.background_thread_status.fatal_error)
