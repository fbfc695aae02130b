"""A `LogitsProcessor` that keeps thinking within a budget and closes it with the model's own token."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.caches import check_model
from hf_dynasor.stopping.calls import CallTracker, Step, find_pad_id, split_prompts
from hf_dynasor.stopping.guided import force_tokens
from hf_dynasor.stopping.markers import RowThinking, find_think_markers, write_closing
from hf_dynasor.stopping.probe import find_eos_ids
from hf_dynasor.stopping.readings import check_at_least
from hf_dynasor.stopping.rules import ThinkingBudget


class ThinkingBudgetProcessor(LogitsProcessor):  # type: ignore[misc]
    """Closes the thinking of a row at its budget: `</think>` as its special token, at the end of a sentence.

    From `grace` tokens before the maximum the first end of a line or sentence closes the thought; at the maximum
    it is closed wherever it is. The budget counts from where thinking opens, whoever opens it; a row whose
    thinking is closed, or never opens, is left alone. Below the minimum, closing and ending are impossible.

    Args:
        model: A decoder-only transformers model.
        tokenizer: Its tokenizer.
        maximum: Most thinking tokens; `None` for no limit.
        minimum: Least thinking tokens.
        grace: Tokens before the maximum from which a boundary is looked for.
        markers: Texts that open and close the thinking, where they cannot be found.

    Raises:
        ConfigurationError: A model without think markers, a maximum below the minimum, a negative grace.

    Examples:

    ```python
    budget = ThinkingBudgetProcessor(model, tokenizer, maximum=512)
    model.generate(**inputs, logits_processor=[budget])
    ```
    """

    supports_continuous_batching = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        maximum: int | None = None,
        minimum: int = 0,
        grace: int = 32,
        markers: tuple[str, str] | None = None,
    ) -> None:
        check_model(model)
        check_at_least("grace", grace, 0)
        ThinkingBudget(minimum=minimum, maximum=maximum)  # checks both
        found = find_think_markers(tokenizer, getattr(model, "generation_config", None), markers=markers)
        if found is None or (minimum and not found.is_single):
            raise ConfigurationError(
                "Got a model whose thinking has no markers of one token each, so it cannot be kept within a budget. "
                "Name them, markers=('<think>', '</think>'), or limit max_new_tokens instead."
            )
        self._markers, self._tokenizer, self._grace = found, tokenizer, grace
        # One token of the maximum is kept for the end of the line before the marker.
        self._last = None if maximum is None else max(0, maximum - 1)
        self._least = minimum if self._last is None else min(minimum, self._last)
        self._eos = find_eos_ids(model)
        self._pad = find_pad_id(tokenizer, self._eos)
        self._calls = CallTracker(offset=0)
        self._rows: list[_BudgetRow] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, shape (batch, vocabulary), with one token left to each row that must close its thought."""
        step = self._calls.advance(input_ids)
        if step is Step.FIRST:
            prompts = split_prompts(input_ids, self._calls.prompt_length, self._pad)
            self._rows = [_BudgetRow(RowThinking(self._tokenizer, self._markers, ids)) for ids in prompts]
        elif step is Step.NEXT:
            for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                row.append(token_id, self._eos)
        for row in self._rows:
            if not row.queue and self._must_close(row):
                tail = row.thinking.read_tail()
                row.queue = list(write_closing(self._tokenizer, self._markers, tail))
        scores = self._hold_open(scores)
        return force_tokens(
            scores, {index: row.queue[0] for index, row in enumerate(self._rows) if row.queue}
        )

    @property
    def num_thinking_tokens(self) -> tuple[int, ...]:
        """Thinking tokens of each row of the last call."""
        return tuple(row.thinking.num_tokens for row in self._rows)

    def _must_close(self, row: _BudgetRow) -> bool:
        spent = row.thinking.num_tokens
        if self._last is None or row.has_ended or not row.thinking.is_thinking:
            return False
        if spent >= self._last:
            return True
        return spent >= max(self._least, self._last - self._grace) and row.thinking.is_at_boundary

    def _hold_open(self, scores: torch.Tensor) -> torch.Tensor:
        short = [
            index
            for index, row in enumerate(self._rows)
            if row.thinking.is_thinking and row.thinking.num_tokens < self._least and not row.queue
        ]
        if short:
            scores = scores.clone()
            for token_id in (*self._markers.close_ids, *self._eos):
                scores[short, token_id] = -float("inf")
        return scores


class _BudgetRow:
    """One row: its thinking, and what is still to be forced."""

    def __init__(self, thinking: RowThinking) -> None:
        self.thinking = thinking
        self.queue: list[int] = []
        self.has_ended = False

    def append(self, token_id: int, eos_token_ids: frozenset[int]) -> None:
        """Take in the row's next token."""
        if self.has_ended or token_id in eos_token_ids:
            self.has_ended, self.queue = True, []
            return
        self.thinking.append(token_id)
        if self.queue and token_id == self.queue[0]:
            self.queue = self.queue[1:]
