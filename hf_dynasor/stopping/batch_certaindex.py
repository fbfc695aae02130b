"""A `StoppingCriteria` for samples of one question: they stop together once the vote is certain (paper §3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from hf_dynasor.answers import AnswerFormat, extract_answer, group_answers, majority
from hf_dynasor.answers.keys import check_format
from hf_dynasor.certaindex import Certaindex, Thresholds, agreement, normalised_entropy
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.caches import check_model
from hf_dynasor.stopping.calls import CallTracker, Step
from hf_dynasor.stopping.markers import check_tokenizer
from hf_dynasor.stopping.probe import find_eos_ids
from hf_dynasor.stopping.readings import check_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOutcome:
    """What the samples of one question came to.

    Args:
        answer: The answer of the majority of the finished samples.
        certaindex: The reading on the finished samples.
        is_certain: Whether it exceeded the thresholds, so that the others were stopped.
    """

    answer: str | None
    certaindex: Certaindex
    is_certain: bool


class BatchCertaindexCriteria(StoppingCriteria):  # type: ignore[misc]
    """Stops all samples of a question once those that finished agree strongly enough.

    Works with stock `generate` as it is: one question per batch, or several with `num_return_sequences` each.

    Args:
        model: A decoder-only transformers model.
        tokenizer: Its tokenizer.
        thresholds: What the certaindex must exceed; the paper's 0.7 of entropy by default.
        detect_at: Finished samples before the first reading (the paper's detect @knob).
        num_return_sequences: Samples of each question, in consecutive rows; `None` takes the whole batch as one.
        format: How answers are found and compared.

    Raises:
        ConfigurationError: No tokenizer, an encoder-decoder, a number below its range.

    Examples:

    ```python
    criteria = BatchCertaindexCriteria(model, tokenizer, num_return_sequences=20)
    model.generate(**inputs, do_sample=True, num_return_sequences=20, stopping_criteria=[criteria])
    criteria.outcomes[0].answer
    ```
    """

    supports_continuous_batching = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        thresholds: Thresholds | None = None,
        *,
        detect_at: int = 5,
        num_return_sequences: int | None = None,
        format: AnswerFormat = "auto",
    ) -> None:
        check_model(model)
        check_tokenizer(tokenizer)
        check_at_least("detect_at", detect_at, 2)
        if num_return_sequences is not None:
            check_at_least("num_return_sequences", num_return_sequences, 1)
        check_format(format)
        self._tokenizer, self._format = tokenizer, format
        self._thresholds = thresholds or Thresholds(entropy=0.7)
        self._detect_at, self._group_size = detect_at, num_return_sequences
        self._eos = torch.tensor(sorted(find_eos_ids(model)), dtype=torch.long)
        self._calls = CallTracker(offset=1)
        self._answers: dict[int, str | None] = {}
        self._certain: set[int] = set()
        self._num_rows = 0

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Which rows stop here, shape (batch,)."""
        if self._calls.advance(input_ids) is Step.FIRST:
            self._begin(input_ids)
        ended = torch.isin(input_ids[:, -1], self._eos.to(input_ids.device)).tolist()
        news = [row for row, is_end in enumerate(ended) if is_end and row not in self._answers]
        for row in news:
            self._answers[row] = self._read_answer(input_ids[row])
        for question in sorted({self._question_of(row) for row in news} - self._certain):
            if self._is_certain(question):
                self._certain.add(question)
        stopped = [self._question_of(row) in self._certain for row in range(self._num_rows)]
        return torch.tensor(stopped, dtype=torch.bool, device=input_ids.device)

    @property
    def outcomes(self) -> tuple[QuestionOutcome, ...]:
        """What each question of the last call came to."""
        size = self._group_size or max(1, self._num_rows)
        return tuple(self._judge(question) for question in range(self._num_rows // size))

    def _begin(self, input_ids: torch.Tensor) -> None:
        self._num_rows = int(input_ids.shape[0])
        if self._group_size and self._num_rows % self._group_size:
            raise ConfigurationError(
                f"Got a batch of {self._num_rows} rows but expected a multiple of num_return_sequences = "
                f"{self._group_size}. Give generate() and this criterion the same number."
            )
        self._answers, self._certain = {}, set()

    def _question_of(self, row: int) -> int:
        return row // self._group_size if self._group_size else 0

    def _read_answer(self, ids: torch.Tensor) -> str | None:
        text = self._tokenizer.decode(ids[self._calls.prompt_length :], skip_special_tokens=True)
        return extract_answer(text, format=self._format)

    def _is_certain(self, question: int) -> bool:
        certaindex = self._judge(question).certaindex
        return certaindex.num_paths >= self._detect_at and self._thresholds.are_exceeded_by(certaindex)

    def _judge(self, question: int) -> QuestionOutcome:
        finished = [self._answers[row] for row in sorted(self._answers) if self._question_of(row) == question]
        groups = group_answers(finished, format=self._format)
        certaindex = Certaindex(
            entropy=normalised_entropy(groups.sizes),
            agreement=agreement(groups.sizes),
            num_paths=len(finished),
        )
        return QuestionOutcome(
            answer=majority(groups), certaindex=certaindex, is_certain=question in self._certain
        )
