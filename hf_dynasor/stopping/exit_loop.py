"""The loop of an early-exit generation: decode a step, let rows take it in, ask those that are due, let the done go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from hf_dynasor.stopping.decoding import DecodingBatch
from hf_dynasor.stopping.exit_rows import ExitRow
from hf_dynasor.stopping.guided import force_tokens

_ROWWISE = frozenset(
    (
        "EosTokenCriteria",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "StopStringCriteria",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    )
)
"""Processors and criteria of transformers that look at each row by itself and remember nothing of its place."""


def are_rowwise(items: Iterable[Any]) -> bool:
    """Whether rows may leave the batch without a processor or criterion mistaking one row for another."""
    return all(type(item).__name__ in _ROWWISE for item in items)


@dataclass(slots=True, kw_only=True)
class ExitLoop:
    """One call of `generate`.

    Args:
        batch: The rows that still run.
        rows: Every row of the call.
        prober: Asks the rows that are due.
        needs: What the rule must have read.
        floor: The probability at which a probe may give its answer up.
        processors: The logits processors of the call.
        criteria: Its stopping criteria.
        config: Its generation config.
        pad: Fills rows that are done.
        streamer: Gets the prompt, then each token, or `None`.
        scores, logits: Lists to keep them in, or `None`.
        is_compact: Whether rows that are done leave the batch.
    """

    batch: DecodingBatch
    rows: list[ExitRow]
    prober: Any
    needs: Any
    floor: float
    processors: Any
    criteria: Any
    config: Any
    pad: int
    streamer: Any
    scores: list[torch.Tensor] | None
    logits: list[torch.Tensor] | None
    is_compact: bool

    def run(self) -> None:
        """Until every row is done. The maximum length bounds it."""
        if self.streamer is not None:
            self.streamer.put(self.batch.ids.cpu())
        while not all(row.is_done for row in self.rows):
            self._decode()
            self._finish()
            self._ask()
            self._leave()
        if self.streamer is not None:
            self.streamer.end()

    def _decode(self) -> None:
        logits = self.batch.step()
        scores = self.processors(self.batch.ids, logits)
        running = self._list_running()
        forced = {place: row.queue[0] for place, row in running if row.queue}
        scores = force_tokens(scores, forced)
        if self.scores is not None:
            self.scores.append(scores)
        if self.logits is not None:
            self.logits.append(logits)
        tokens = self.batch.pick(scores, do_sample=self.config.do_sample)
        done = [place for place, index in enumerate(self.batch.rows) if self.rows[index].is_done]
        tokens[done] = self.pad
        self.batch.append(tokens)
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())
        told = tokens.tolist()
        for place, row in running:
            row.append(told[place], is_forced=place in forced)

    def _finish(self) -> None:
        """End the rows that a criterion of `generate` ends: EOS, length, stop strings, and whatever was given."""
        stops = self.criteria(
            self.batch.ids, tuple(self.scores) if self.scores is not None else None
        ).tolist()
        is_full = self.batch.ids.shape[1] >= self.config.max_length
        for place, row in self._list_running():
            row.finish_step(is_stopped=stops[place], is_full=is_full)

    def _ask(self) -> None:
        due = [(place, row) for place, row in self._list_running() if row.watched.is_due()]
        if not due:
            return
        if not self.needs:
            results: list[Any] = [None] * len(due)
        else:
            previous = [row.watched.last for _, row in due]
            places = [place for place, _ in due]
            results = self.prober.read(
                self.batch.view(), places, previous=previous, needs=self.needs, floor=self.floor
            )
        for (_, row), result in zip(due, results, strict=True):
            row.observe(result)

    def _leave(self) -> None:
        staying = [place for place, _ in self._list_running()]
        if self.is_compact and staying and len(staying) < len(self.batch.rows):
            self.batch.keep(staying)

    def _list_running(self) -> list[tuple[int, ExitRow]]:
        pairs = [(place, self.rows[index]) for place, index in enumerate(self.batch.rows)]
        return [(place, row) for place, row in pairs if not row.is_done]
