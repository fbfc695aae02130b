"""Step-labelled causal heads: a language model that writes `+` or `-` after each step (Math-Shepherd, Llemma)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from hf_dynasor.embedded.traces import STEP_DELIMITER
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.rewards.heads import (
    check_context,
    encode_text,
    find_token,
    make_reader,
    render_chat,
    run_logits,
)
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput

StepLayout: TypeAlias = Literal["tags", "turns"]
LAYOUTS = ("tags", "turns")


class StepLabelReward:
    """The probability of the plus token against the minus token, where the model labels the last step.

    With the layout `tags` the model reads the question and the steps, a tag after each, and labels at the tag. With
    `turns` each step is a turn of the user, which the assistant answers with the label, in the chat template.

    Args:
        loaded: A causal language model that was trained so, and its tokenizer.
        plus: Token for a right step.
        minus: Token for a wrong step.
        tag: Token after each step, with the layout `tags`.
        layout: `tags` or `turns`.
        step_delimiter: Divides the context into steps.
        sizes: `max_batch_tokens` and `max_cached_tokens` of `PathReader`.

    Raises:
        ConfigurationError: The vocabulary has no such token, or the layout is unknown.
    """

    normaliser = "softmax over the plus and the minus token"

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        plus: str = "+",
        minus: str = "-",
        tag: str = "ки",
        layout: StepLayout = "tags",
        step_delimiter: str = STEP_DELIMITER,
        **sizes: Any,
    ) -> None:
        if layout not in LAYOUTS:
            raise name_unknown("layout", layout, LAYOUTS)
        tokenizer = loaded.tokenizer
        self._loaded, self._layout, self._step_delimiter = loaded, layout, step_delimiter
        self._tag, self._plus_text = tag, plus
        self._tag_id = find_token(tokenizer, tag, option="tag") if layout == "tags" else None
        self._plus = find_token(tokenizer, plus, option="plus")
        self._minus = find_token(tokenizer, minus, option="minus")
        if self._plus == self._minus:
            raise ConfigurationError(f"Got {plus = } and {minus = } but expected two different tokens.")
        forward = run_logits(loaded.model, all_columns=False)
        self.reader = make_reader(loaded, forward, num_features=loaded.config.vocab_size, **sizes)

    @property
    def name(self) -> str:
        """Such as `step_labels(math-shepherd-mistral-7b-prm)`."""
        return f"step_labels({self._loaded.name})"

    def encode(self, step: StepInput) -> EncodedStep:
        """Question and steps in the layout that the model was trained with."""
        steps = step.split_steps(self._step_delimiter)
        ids = self._encode_tags(step, steps) if self._layout == "tags" else self._encode_turns(step, steps)
        check_context(self._loaded, ids)
        return EncodedStep(ids=ids)

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The two tokens' softmax, at the last token read."""
        return [
            Rating(
                score=1.0 / (1.0 + math.exp(min(700.0, found.last[self._minus] - found.last[self._plus]))),
                num_read=found.num_read,
                num_reused=found.num_reused,
            )
            for found in self.reader.read([step.ids for step in steps])
        ]

    def _encode_tags(self, step: StepInput, steps: list[str]) -> tuple[int, ...]:
        text = f"{step.question} " + "\n".join(f"{part} {self._tag}" for part in steps)
        ids = tuple(self._loaded.tokenizer.encode(text))
        last = max((index for index, token in enumerate(ids) if token == self._tag_id), default=None)
        if last is None or self._tag_id is None:
            raise ConfigurationError(
                f"Got tag = {self._tag!r}, which {self._loaded.name}'s tokenizer merges with the text before it. "
                "Name a tag that stays a token of its own."
            )
        return ids[: last + 1]

    def _encode_turns(self, step: StepInput, steps: list[str]) -> tuple[int, ...]:
        steps = [f"{step.question} {steps[0]}", *steps[1:]]
        messages = step.messages[:-1]
        for part in steps:
            label = {"role": "assistant", "content": self._plus_text}
            messages = [*messages, {"role": "user", "content": part}, label]
        text = render_chat(self._loaded, messages[:-1], add_generation_prompt=True)
        return encode_text(self._loaded.tokenizer, text)
