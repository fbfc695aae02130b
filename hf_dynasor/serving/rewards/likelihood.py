"""The likelihood of a step under a language model: a reward that needs no training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from hf_dynasor.certaindex.likelihood import (
    COMBINATIONS,
    Combination,
    check_pattern,
    combine_logprobs,
    select_tokens,
)
from hf_dynasor.core import Prompt
from hf_dynasor.errors import name_unknown
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import PromptEncoder
from hf_dynasor.serving.rewards.heads import check_context, make_reader, run_logits
from hf_dynasor.serving.rewards.steps import EncodedStep, NativeIds, Rating, StepInput
from hf_dynasor.serving.text_stream import TextStream

Span: TypeAlias = Literal["step", "path"]
SPANS = ("step", "path")


class LikelihoodReward:
    """How likely a language model finds what was written: its own doubts, read at every token.

    The model may be the generator itself (it then reads the very ids that were generated) or another one, which
    reads the texts in its own chat template.

    Args:
        loaded: A causal language model.
        combination: `minimum`, `geometric_mean` or `product` of the token probabilities.
        pattern: A regular expression: only tokens that it (or its first group) matches count, such as
            `hf_dynasor.certaindex.likelihood.RESULT_DIGITS`. `None` takes every token.
        span: `path` rates all that was written so far, `step` the last step alone.
        sizes: `max_batch_tokens` and `max_cached_tokens` of `PathReader`.

    A path without a token to rate scores 1. The first token of a prompt without opening cannot be rated.

    Raises:
        ConfigurationError: An unknown combination or span, or a pattern that is none.
        UnsupportedError: The model is split over processes.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        combination: Combination = "minimum",
        pattern: str | None = None,
        span: Span = "path",
        **sizes: Any,
    ) -> None:
        _check(combination, pattern, span)
        loaded.check_whole("The likelihood as a reward")
        self._loaded = replace(loaded, model=share_weights(loaded.model))
        self._combination, self._pattern, self._span = combination, pattern, span
        self._encoder = PromptEncoder(loaded)
        self._native_tokenizers: list[tuple[Any, bool]] = []
        forward = run_logits(self._loaded.model, all_columns=True)
        vocabulary_size = int(loaded.config.vocab_size)
        self.reader = make_reader(
            self._loaded, forward, num_features=vocabulary_size, rates_tokens=True, **sizes
        )

    @property
    def name(self) -> str:
        """Such as `likelihood(reasoner)`."""
        return f"likelihood({self._loaded.name})"

    @property
    def normaliser(self) -> str:
        """The combination in words."""
        which = "" if self._pattern is None else f", of those that match {self._pattern}"
        return f"{COMBINATIONS[self._combination]} of the {self._span}{which}"

    @property
    def model(self) -> Any:
        """The transformers model that reads."""
        return self._loaded.model

    def vary(
        self, *, combination: Combination = "minimum", pattern: str | None = None, span: Span = "path"
    ) -> LikelihoodReward:
        """Another view of the same readings: what the one has read, the other does not read again."""
        _check(combination, pattern, span)
        other = copy.copy(self)
        other._combination, other._pattern, other._span = combination, pattern, span
        return other

    def encode(self, step: StepInput) -> EncodedStep:
        """The path as ids, and which of them are rated."""
        native = step.native
        if native is None or not self._knows(native.tokenizer):
            native = self._encode_texts(step)
        check_context(self._loaded, native.ids)
        begin = native.num_opening if self._span == "path" else native.num_before
        return EncodedStep(
            ids=native.ids, rated=tuple(place for place in self._select(native, begin) if place)
        )

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The combination of the rated tokens' probabilities."""
        return [
            Rating(
                score=combine_logprobs([found.values[place] for place in step.rated], self._combination),
                num_read=found.num_read,
                num_reused=found.num_reused,
            )
            for step, found in zip(steps, self.reader.read([step.ids for step in steps]), strict=True)
        ]

    def _encode_texts(self, step: StepInput) -> NativeIds:
        segments = (step.opening, *step.context, step.step)
        ends = (1, len(segments) - 1, len(segments))
        ids = [self._encoder.encode(Prompt(segments[:end])) for end in ends]
        return NativeIds(
            ids=ids[2],
            num_opening=len(ids[0]),
            num_before=len(ids[1]),
            tokenizer=self._loaded.tokenizer,
        )

    def _select(self, native: NativeIds, begin: int) -> list[int]:
        if self._pattern is None:
            return list(range(begin, len(native.ids)))
        # The whole path is searched, so that a step may end what its context began.
        written = native.ids[native.num_opening :]
        stream = TextStream(self._loaded.tokenizer, native.ids[: native.num_opening])
        for token_id in written:
            stream.push(token_id)
        stream.finish()
        places = [
            native.num_opening + index for index in select_tokens(stream.text, stream.offsets, self._pattern)
        ]
        return [place for place in places if place >= begin]

    def _knows(self, tokenizer: Any) -> bool:
        """Whether ids of a tokenizer mean the same here; looked up once for each."""
        for known, answer in self._native_tokenizers:
            if known is tokenizer:
                return answer
        own = self._loaded.tokenizer
        answer = tokenizer is own or tokenizer.get_vocab() == own.get_vocab()
        self._native_tokenizers = [*self._native_tokenizers[-7:], (tokenizer, answer)]
        return bool(answer)


def _check(combination: str, pattern: str | None, span: str) -> None:
    if combination not in COMBINATIONS:
        raise name_unknown("combination", combination, COMBINATIONS)
    if span not in SPANS:
        raise name_unknown("span", span, SPANS)
    check_pattern(pattern)


def share_weights(model: Any) -> Any:
    """A model of its own over the same tensors: an engine that changes how its model attends does not change this one."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()
