"""The parts of continuous batching that are ours: they tell an observer what happens, and let it decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching import continuous_api, scheduler
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import RequestStatus

SCHEDULER_NAME = "hf_dynasor"


class Observer(Protocol):
    """What the loop tells while it runs, from its own thread."""

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """Choose the next token of each named request from logits of shape (requests, vocabulary).

        Asked after every step, also where it computed parts of prompts only and there is nothing to choose.
        """
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


class SilentRouter(continuous_api.OutputRouter):  # type: ignore[misc]
    """Drops results: the observer has seen every token, and is told of the loop's end."""

    def deliver(self, output: Any) -> None:
        pass

    def deliver_batch(self, outputs: Any) -> None:
        pass


class ObservedScheduler(scheduler.FIFOScheduler):  # type: ignore[misc]
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
        tokens = torch.tensor(self._draw(self._names, scores[:count]), device=scores.device, dtype=torch.long)
        only[:count].scatter_(1, tokens[:, None], 0.0)
        return only


scheduler.SCHEDULER_MAPPING[SCHEDULER_NAME] = ObservedScheduler


def make_processors(observer: Observer) -> Any:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_ObserverDraws(observer.draw)]))
    processors.tensors_required = 1
    return processors
