"""QwQ guided and cut (paper §6): a final-answer prompt is forced into the stream; cut stops on its answers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from hf_dynasor.answers import AnswerFormat, extract_answer
from hf_dynasor.answers.keys import check_format
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping.caches import check_model
from hf_dynasor.stopping.calls import CallTracker, Step, find_pad_id, split_prompts
from hf_dynasor.stopping.consistency import AnswerConsistency
from hf_dynasor.stopping.markers import RowThinking, ThinkMarkers, find_think_markers
from hf_dynasor.stopping.probe import find_eos_ids
from hf_dynasor.stopping.readings import Need, Progress, Reading, StoppingRule, TraceEntry, check_at_least
from hf_dynasor.stopping.texts import GUIDED_PROMPT, find_answer_end, is_closed_answer


class GuidedProcessor(LogitsProcessor):  # type: ignore[misc]
    """Every `interval` thinking tokens a row is made to write the final-answer prompt, and then its answer.

    The prompt stays in the stream: the model reads its own answers, and often ends sooner for it. Forced tokens
    count towards `max_new_tokens`. A row whose thinking is closed, or that has ended, is left alone.

    Args:
        model: A decoder-only transformers model.
        tokenizer: Its tokenizer.
        interval: Thinking tokens between two prompts, at least 1; 32 in the paper.
        prompt: The text that elicits an answer; it must open a box.
        resume: A text forced after each answer, for models that would otherwise end there.
        max_answer_tokens: Longest answer; it otherwise ends at its brace or a newline.
        markers: Texts that open and close the thinking, where they cannot be found.
        format: How an answer is found.

    Raises:
        ConfigurationError: An interval below 1, a prompt without a box, no tokenizer, an encoder-decoder.

    Examples:

    ```python
    guided = GuidedProcessor(model, tokenizer, interval=32)
    model.generate(**inputs, logits_processor=[guided], stopping_criteria=[CutCriteria(guided)])
    guided.answers[0]
    ```
    """

    supports_continuous_batching = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        interval: int = 32,
        prompt: str = GUIDED_PROMPT,
        resume: str = "",
        max_answer_tokens: int = 32,
        markers: tuple[str, str] | None = None,
        format: AnswerFormat = "auto",
    ) -> None:
        check_model(model)
        check_at_least("interval", interval, 1)
        check_at_least("max_answer_tokens", max_answer_tokens, 1)
        check_format(format)
        if not prompt.endswith("{"):
            raise ConfigurationError(
                f"Got prompt = {prompt!r} but expected a text that opens a box: '...\\boxed{{'."
            )
        self.markers = find_think_markers(
            tokenizer, getattr(model, "generation_config", None), markers=markers
        )
        self.tokenizer, self.format = tokenizer, format
        self.interval, self.max_answer_tokens = interval, max_answer_tokens
        self.eos_token_ids = find_eos_ids(model)
        self.prompt_ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
        self.resume_ids: list[int] = tokenizer.encode(resume, add_special_tokens=False) if resume else []
        self._pad = find_pad_id(tokenizer, self.eos_token_ids)
        self._calls = CallTracker(offset=0)
        self._rows: list[GuidedRow] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, shape (batch, vocabulary), with one token left to each row that must write the prompt."""
        self.follow(input_ids)
        forced = {index: row.queue[0] for index, row in enumerate(self._rows) if row.queue}
        return force_tokens(scores, forced)

    def follow(self, input_ids: torch.Tensor) -> list[GuidedRow]:
        """Bring the rows up to date with the ids of a step; doing so twice changes nothing."""
        step = self._calls.advance(input_ids)
        if step is Step.FIRST:
            prompts = split_prompts(input_ids, self._calls.prompt_length, self._pad)
            self._rows = [GuidedRow(self, self.markers, ids) for ids in prompts]
        elif step is Step.NEXT:
            for row, token_id in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                row.append(token_id)
        return self._rows

    @property
    def answers(self) -> tuple[tuple[str | None, ...], ...]:
        """For each row of the last call the answers that it gave, in order."""
        return tuple(tuple(reading.answer for reading in row.readings) for row in self._rows)

    @property
    def num_forced(self) -> tuple[int, ...]:
        """For each row of the last call how many of its tokens were forced."""
        return tuple(row.num_forced for row in self._rows)


class GuidedRow:
    """One row: it thinks, is made to write the prompt, answers, and thinks on."""

    def __init__(self, guide: GuidedProcessor, markers: ThinkMarkers | None, prompt_ids: list[int]) -> None:
        self._guide = guide
        self._thinking = RowThinking(guide.tokenizer, markers, prompt_ids)
        self._next_at = guide.interval
        self._answer_ids: list[int] | None = None
        self.queue: list[int] = []
        self.readings: list[Reading] = []
        self.num_forced = 0
        self.has_ended = False

    def append(self, token_id: int) -> None:
        """Take in the row's next token."""
        if self.has_ended or token_id in self._guide.eos_token_ids:
            self.has_ended, self.queue = True, []
            return
        self._thinking.append(token_id)
        if self.queue and token_id == self.queue[0]:
            self.queue = self.queue[1:]
            self.num_forced += 1
        elif self._answer_ids is not None:
            self._answer_ids.append(token_id)
            self._close_answer()
        if not self.queue and self._answer_ids is None and self._is_due():
            self.queue, self._answer_ids = list(self._guide.prompt_ids), []

    def _is_due(self) -> bool:
        return self._thinking.is_thinking and self._thinking.num_tokens >= self._next_at

    def _close_answer(self) -> None:
        """Read the answer if it has ended, and think on for another interval."""
        guide, ids = self._guide, self._answer_ids or []
        text = str(guide.tokenizer.decode(ids))
        if find_answer_end(text) is None and len(ids) < guide.max_answer_tokens:
            return
        place = Progress(num_tokens=self._thinking.num_tokens)
        answer = extract_answer(text, format=guide.format, allow_unclosed=True)
        self.readings.append(
            Reading(progress=place, answer=answer, text=text, is_closed=is_closed_answer(text))
        )
        self._answer_ids = None
        if self._thinking.is_thinking:
            self.queue = list(guide.resume_ids)
        self._next_at = self._thinking.num_tokens + len(self.queue) + guide.interval


class CutCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops a guided row once the answers that it gave are certain (QwQ cut, paper §6).

    Args:
        guided: The processor of the same `generate` call.
        rule: When to stop; by default the last 3 answers agree. Its interval is the processor's.

    Raises:
        ConfigurationError: A rule that needs more than answers, or no `GuidedProcessor`.
    """

    supports_continuous_batching = False

    def __init__(self, guided: GuidedProcessor, rule: StoppingRule | None = None) -> None:
        if not isinstance(guided, GuidedProcessor):
            raise ConfigurationError(
                f"Got guided = {guided!r} but expected the GuidedProcessor of the same generate() call."
            )
        self._rule = rule or AnswerConsistency(window=3, interval=1)
        if self._rule.needs - {Need.ANSWER}:
            raise ConfigurationError(
                "Got a rule that reads probabilities or entropies, but answers in the stream have none: use "
                "AnswerConsistency."
            )
        self._guided = guided
        self._rows: list[_CutRow] = []
        self._guided_rows: list[GuidedRow] = []

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Which rows stop here, shape (batch,)."""
        if input_ids.shape[0] != len(self._guided.answers):
            raise UnsupportedError(
                f"CutCriteria got {input_ids.shape[0]} rows but its GuidedProcessor {len(self._guided.answers)}. Pass the "
                "processor to the same generate() call, logits_processor=[guided]; beam search cannot be followed "
                "(use num_beams=1)."
            )
        guided = self._guided.follow(input_ids)
        if guided is not self._guided_rows:
            self._guided_rows, self._rows = guided, [_CutRow(self._rule) for _ in guided]
        stopped = [row.is_stopped_by(other.readings) for row, other in zip(self._rows, guided, strict=True)]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)

    @property
    def traces(self) -> tuple[tuple[TraceEntry, ...], ...]:
        """The verdicts on each row of the last call."""
        return tuple(tuple(row.trace) for row in self._rows)


class _CutRow:
    """The rule's state on one guided row."""

    def __init__(self, rule: StoppingRule) -> None:
        self._state = rule.start()
        self.trace: list[TraceEntry] = []

    def is_stopped_by(self, readings: list[Reading]) -> bool:
        for reading in readings[len(self.trace) :]:
            verdict = self._state.observe(reading)
            self.trace.append(
                TraceEntry(num_tokens=reading.progress.num_tokens, answer=reading.answer, verdict=verdict)
            )
        return any(entry.verdict.is_stop for entry in self.trace)


def force_tokens(scores: torch.Tensor, forced: dict[int, int]) -> torch.Tensor:
    """The scores with a single possible token in some rows: the token of each row in `forced`."""
    if not forced:
        return scores
    scores = scores.clone()
    for row, token_id in forced.items():
        scores[row] = -float("inf")
        scores[row, token_id] = 0.0
    return scores
