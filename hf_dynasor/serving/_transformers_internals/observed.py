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

from hf_dynasor.serving._transformers_internals.kept import give_up_kept, keep_ends_first
from hf_dynasor.serving.program_scheduling import Computed

SCHEDULER_NAME = "hf_dynasor"


class Observer(Protocol):
    """What the loop tells while it runs, from its own thread."""

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """Choose the next token of each named request from logits of shape (requests, vocabulary).

        Asked after every step, also where it computed parts of prompts only and there is nothing to choose.
        """
        ...

    def enqueue(self, name: str) -> None:
        """A request waits from now on; or again, because its pages were taken."""
        ...

    def choose(self) -> Sequence[str]:
        """Which requests the next step should run."""
        ...

    def note_run(self, computed: Sequence[Computed]) -> None:
        """The step that was chosen runs, with these parts of prompts; some may have been left out."""
        ...

    def find_parked(self) -> str | None:
        """The paused request whose pages are taken first; `None` if none is paused."""
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
    """Runs what the observer chooses, as far as pages reach. Of equal prompts the first is computed, others share it."""

    observer: Observer
    page_size: int
    starved_requests: list[Any]

    def add_waiting_request(self, state: Any) -> None:
        super().add_waiting_request(state)
        self.observer.enqueue(state.request_id)

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        for _ in range(
            len(self.active_requests) + 1
        ):  # each turn but the last takes a paused request's pages
            candidates = self._list_candidates()
            prefilling = {state.request_id for state in candidates if state.status != RequestStatus.DECODING}
            removed: set[str] = set()
            outcome = self._process_candidates(candidates, token_budget, cache_budget, removed)
            self._cleanup_waiting_queue(removed)
            scheduled, is_short, is_fast, num_q_tokens, max_kv_read = outcome
            if scheduled or not is_short or not self._take_parked():
                break
        if not scheduled:
            return (None if is_short else scheduled), is_fast, 0, 0
        if self.starved_requests and self._take_parked():
            self.starved_requests = []  # they go on in the next step, with the pages that were taken
        self.observer.note_run(
            [
                Computed(name=each.state.request_id, num_tokens=each.query_length, is_last=each.has_new_token)
                for each in scheduled
                if each.state.request_id in prefilling
            ]
        )
        return scheduled, is_fast, num_q_tokens, max_kv_read

    def _list_candidates(self) -> list[Any]:
        """The chosen requests: those that decode first. Of equal prompts one is computed, the others share its pages."""
        ready: list[Any] = []
        others: list[Any] = []
        names = self.observer.choose()
        found = (self.active_requests.get(name) or self.waiting_requests.get(name) for name in names)
        for state in (state for state in found if state is not None):
            (ready if state.status == RequestStatus.DECODING else others).append(state)
        if any(each.status == RequestStatus.PENDING for each in others):
            others = self._hold_twins(others)
        if self.block_new_requests and any(
            each.status != RequestStatus.PENDING for each in [*ready, *others]
        ):
            others = [each for each in others if each.status != RequestStatus.PENDING]
        return ready + others

    def _hold_twins(self, states: list[Any]) -> list[Any]:
        """Leave out new requests whose prompt is being computed, unless its pages are there already."""
        if not self.cache.use_prefix_sharing:
            return states
        computing: set[tuple[int, ...]] = set()
        computed: set[tuple[int, ...]] = set()
        for each in self.active_requests.values():
            is_there = each.status == RequestStatus.DECODING
            (computed if is_there else computing).add(tuple(each.initial_tokens))
        kept = []
        for each in states:
            prompt = tuple(each.initial_tokens)
            is_shared = len(prompt) > self.page_size and prompt not in computed  # less than a page never is
            if each.status != RequestStatus.PENDING or not (is_shared and prompt in computing):
                kept.append(each)
                computing.add(prompt)
        return kept

    def _take_parked(self) -> bool:
        """Take the pages of the paused request that is last in the order; it is computed again when it goes on."""
        name = self.observer.find_parked()
        state = None if name is None else self.active_requests.get(name)
        if state is None:
            return False
        self.cache.free_blocks(name, no_cache=True)
        self.finish_request(name)
        self.add_waiting_request(state.create_equivalent_initial_request())
        return True

    def _infer_request_tokens(self, state: Any, request_ids_to_remove_from_waiting: set[str]) -> Any:
        is_new, before = state.status == RequestStatus.PENDING, state.position_offset
        tokens = super()._infer_request_tokens(state, request_ids_to_remove_from_waiting)
        if is_new:
            self.observer.count_reused(state.request_id, state.position_offset - before)
        return tokens

    def _schedule_request(self, state: Any, *args: Any) -> None:
        self.observer.mark_started(state.request_id)
        super()._schedule_request(state, *args)

    def _try_to_meet_safety_margin(self) -> bool:
        """Kept beginnings go a part at a time, the longest unused first, instead of all at once."""
        return give_up_kept(self.cache, self.safety_margin)

    def clear_cancelled_requests(self) -> Any:
        keep_ends_first(self.cache, self._requests_to_cancel)
        states = super().clear_cancelled_requests()
        if states:
            # transformers lets waiting requests in again only when one finishes; here all of them end by cancelling.
            self.block_new_requests = False
            self.observer.confirm_cancelled([state.request_id for state in states])
        return states


class ObserverDraws(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Has the observer choose in the place where logits are processed, and hands its choice over as what was sampled."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - the base class's own form
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, draw: Callable[[Sequence[str], torch.Tensor], list[int]]) -> None:
        self._draw = draw
        self._names: list[str] = []
        self._tokens: list[int] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        self._names = [request.state.request_id for request in requests_with_new_token]
        return torch.empty(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        self._tokens = self._draw(self._names, scores[: len(self._names)])
        return scores

    def hand_over(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """In the place of sampling, which would look for the likeliest token once more."""
        count = len(self._tokens)
        output_ids[0, :count] = torch.tensor(self._tokens, device=output_ids.device, dtype=output_ids.dtype)


scheduler.SCHEDULER_MAPPING[SCHEDULER_NAME] = ObservedScheduler


def make_processors(draws: ObserverDraws) -> Any:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draws]))
    processors.tensors_required = 1
    return processors
