"""Heads with two classes at a separator token after each step (Qwen2.5-Math-PRM and token classifiers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hf_dynasor.embedded.traces import STEP_DELIMITER
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.rewards.heads import (
    check_context,
    encode_text,
    find_token,
    make_reader,
    render_chat,
    run_head,
)
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput

SEPARATOR = "<extra_0>"
_NUM_CLASSES = 2


class StepClassReward:
    """The softmax of a two-class head at the separator after the last step.

    The steps are the assistant's turn in the model's chat template, a separator after each.

    Args:
        loaded: A model with a two-class head on its tokens: `score` or `classifier`, or the one passed.
        head: From hidden states to two logits each; `None` takes the model's own.
        separator: Token after each step.
        right_class: Which of the two classes means a right step: 0 or 1.
        step_delimiter: Divides the context into steps.
        sizes: `max_batch_tokens` and `max_cached_tokens` of `PathReader`.

    Raises:
        ConfigurationError: The head has not two classes, or the vocabulary has no such separator.
    """

    normaliser = "softmax of the two-class head at the separator"

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        head: Any = None,
        separator: str = SEPARATOR,
        right_class: int = 1,
        step_delimiter: str = STEP_DELIMITER,
        **sizes: Any,
    ) -> None:
        if right_class not in range(_NUM_CLASSES):
            raise ConfigurationError(f"Got {right_class = } but expected 0 or 1.")
        num_labels = loaded.model.config.num_labels
        if head is None and num_labels != _NUM_CLASSES:
            raise ConfigurationError(
                f"Got a model with {num_labels = } but two classes are expected at a separator. For a scalar head use "
                "kind='scalar'."
            )
        self._loaded, self._right_class, self._step_delimiter = loaded, right_class, step_delimiter
        self._separator = separator
        self._separator_id = find_token(loaded.tokenizer, separator, option="separator")
        forward = run_head(loaded.model, head or _find_head(loaded))
        self.reader = make_reader(loaded, forward, num_features=_NUM_CLASSES, **sizes)

    @property
    def name(self) -> str:
        """Such as `step_classes(Qwen2.5-Math-PRM-7B)`."""
        return f"step_classes({self._loaded.name})"

    def encode(self, step: StepInput) -> EncodedStep:
        """The conversation up to the last separator; what the template writes after it is not read."""
        steps = step.split_steps(self._step_delimiter)
        content = "".join(f"{part}{self._separator}" for part in steps)
        text = render_chat(self._loaded, [*step.messages, {"role": "assistant", "content": content}])
        ids = encode_text(self._loaded.tokenizer, text)
        last = max((index for index, token in enumerate(ids) if token == self._separator_id), default=None)
        if last is None:
            raise ConfigurationError(
                f"Got separator = {self._separator!r}, which does not stay a token of its own in {self._loaded.name}'s "
                "chat template."
            )
        check_context(self._loaded, ids[: last + 1])
        return EncodedStep(ids=ids[: last + 1])

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The softmax of the two classes at the last token read."""
        ratings = []
        for found in self.reader.read([step.ids for step in steps]):
            gap = found.last[1 - self._right_class] - found.last[self._right_class]
            score = 1.0 / (1.0 + math.exp(min(700.0, gap)))
            ratings.append(Rating(score=score, num_read=found.num_read, num_reused=found.num_reused))
        return ratings


def _find_head(loaded: LoadedModel) -> Any:
    for name in ("score", "classifier"):
        head = getattr(loaded.model, name, None)
        if callable(head):
            return head
    raise ConfigurationError(
        f"{loaded.name} has neither a head 'score' nor 'classifier'. Pass it: StepClassReward(..., head=...)."
    )
