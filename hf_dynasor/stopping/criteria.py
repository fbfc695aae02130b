"""A `StoppingCriteria` that probes each row on the live cache and stops it once its rule is certain."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria

from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping.caches import LiveBatch, check_model, check_padding
from hf_dynasor.stopping.markers import find_think_markers
from hf_dynasor.stopping.policy import RuleLike, resolve_policy
from hf_dynasor.stopping.probe import Prober, find_eos_ids, pick_suffix
from hf_dynasor.stopping.rows import RowReport, WatchedRow


class ProbingCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops each row of a stock `generate` call as soon as its answer is known.

    The tokens of a row are those of plain `generate` up to the place where it stops. Use
    `hf_dynasor.stopping.EarlyExit` to have the thought closed and the answer written as well.

    Args:
        model: A decoder-only transformers model.
        tokenizer: Its tokenizer.
        rule: When to stop: a rule, an effort's name or a policy file. By default what was calibrated for the model,
            see `find_policy`, else `DEFAULT_RULE`.
        prober: How rows are asked; by default the suffix that fits the rule is verified.
        markers: Texts that open and close the thinking, where they cannot be found.
        recompute: Compute the context anew for each probe, for caches that cannot be put back. Slow.

    Raises:
        ConfigurationError: No tokenizer, an encoder-decoder, markers that the tokenizer does not know.

    Examples:

    ```python
    probing = ProbingCriteria(model, tokenizer, AnswerConsistency.from_effort("mid"))
    output = model.generate(**probing.prepare(**inputs), stopping_criteria=[probing], max_new_tokens=512)
    probing.reports[0].answer
    ```
    """

    supports_continuous_batching = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rule: RuleLike | None = None,
        *,
        prober: Prober | None = None,
        markers: tuple[str, str] | None = None,
        recompute: bool = False,
    ) -> None:
        check_model(model)
        generation_config = getattr(model, "generation_config", None)
        self._markers = find_think_markers(tokenizer, generation_config, markers=markers)
        policy = resolve_policy(rule, model, tokenizer)
        self._model, self._tokenizer, self._rule = model, tokenizer, policy.rule
        suffix = policy.suffix or pick_suffix(policy.rule.needs)
        self._prober = prober or Prober(model, tokenizer, suffix=suffix, markers=self._markers)
        self._eos = find_eos_ids(model)
        self._recompute = recompute
        self._cache: Any = None
        self._mask: torch.Tensor | None = None
        self._length = 0
        self._rows: list[WatchedRow] = []

    def prepare(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        num_return_sequences: int = 1,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Begin a call: returns the arguments for `generate`, with a cache that the probes share.

        Args:
            input_ids: Prompts, padded on the left, shape (batch, length).
            attention_mask: 1 for real tokens, shape (batch, length); all ones by default.
            num_return_sequences: Samples of each prompt.
            inputs: Passed on.

        Raises:
            ConfigurationError: Prompts that are padded on the right.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        check_padding(mask)
        rows = [
            ids[keep.bool()].tolist()
            for ids, keep in zip(input_ids, mask, strict=True)
            for _ in range(num_return_sequences)
        ]
        self._rows = [WatchedRow(self._tokenizer, self._markers, self._rule, ids, self._eos) for ids in rows]
        self._mask = mask.repeat_interleave(num_return_sequences, dim=0)
        self._length = input_ids.shape[1]
        prepared = {"input_ids": input_ids, "attention_mask": mask, **inputs}
        if num_return_sequences > 1:
            prepared["num_return_sequences"] = num_return_sequences
        if not self._recompute:
            self._cache = prepared["past_key_values"] = DynamicCache(config=self._model.config)
        return prepared

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Which rows stop here, shape (batch,)."""
        self._check_step(input_ids)
        self._length += 1
        for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.verdict is None:
                row.append(token_id)
        due = [index for index, row in enumerate(self._rows) if row.is_due()]
        if due:
            self._ask(input_ids, due)
        stopped = [row.verdict is not None for row in self._rows]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)

    @property
    def reports(self) -> tuple[RowReport, ...]:
        """What became of each row of the last call."""
        return tuple(row.report() for row in self._rows)

    def _ask(self, input_ids: torch.Tensor, due: list[int]) -> None:
        if not self._rule.needs:
            for index in due:
                self._rows[index].observe(None)
            return
        results = self._prober.read(
            self._view(input_ids),
            due,
            previous=[self._rows[index].last for index in due],
            needs=self._rule.needs,
            floor=getattr(self._rule, "floor", 0.0),
        )
        for index, result in zip(due, results, strict=True):
            self._rows[index].observe(result)

    def _view(self, input_ids: torch.Tensor) -> LiveBatch:
        assert self._mask is not None
        width = input_ids.shape[1] - self._mask.shape[1]
        mask = torch.nn.functional.pad(self._mask, (0, width), value=1)
        is_padded = not bool(self._mask.all())
        cached = 0 if self._cache is None else self._cache.get_seq_length()
        return LiveBatch(
            cache=self._cache if cached else None,
            pending=input_ids[:, cached:],
            mask=mask if is_padded else None,
        )

    def _check_step(self, input_ids: torch.Tensor) -> None:
        if not self._rows or input_ids.shape[1] != self._length + 1:
            raise ConfigurationError(
                "ProbingCriteria was not told of this call. Begin each one with prepare(): "
                "model.generate(**criteria.prepare(**inputs), stopping_criteria=[criteria])."
            )
        if input_ids.shape[0] != len(self._rows):
            raise UnsupportedError(
                f"Got {input_ids.shape[0]} rows but expected {len(self._rows)}. Give num_return_sequences to "
                "prepare() rather than to generate(); beam search cannot be followed (use num_beams=1)."
            )
