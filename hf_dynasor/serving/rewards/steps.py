"""What a reward model is asked: a step, what came before it, and what it became as token ids. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_dynasor.core import Chat, Message, Prompt, Segment, TokenIds
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import PromptEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeIds:
    """A path as the generator's own token ids.

    Args:
        ids: Opening, context and step.
        num_opening: How many of them are the opening's.
        num_before: How many come before the step.
        tokenizer: Whose ids they are.
    """

    ids: tuple[int, ...]
    num_opening: int
    num_before: int
    tokenizer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """A step to be rated, with everything before it.

    Args:
        opening: The conversation that asks the question, or bare text.
        context: The texts between the opening and the step, in order: earlier steps, what was forced.
        step: The text that is rated; empty for a path that ends where it is.
        native: The same path as ids, where a generator wrote it.
    """

    opening: Chat | str
    context: tuple[str, ...] = ()
    step: str
    native: NativeIds | None = None

    @classmethod
    def of(cls, question: str, steps: Sequence[str]) -> StepInput:
        """The last of `steps`, written for a question that a user asked.

        Raises:
            ConfigurationError: There is no step.
        """
        if not steps:
            raise ConfigurationError("Got no step but expected at least one: the last is rated.")
        opening = Chat(messages=(Message(role="user", content=question),))
        return cls(opening=opening, context=tuple(steps[:-1]), step=steps[-1])

    @property
    def written(self) -> str:
        """Context and step as one text."""
        return "".join((*self.context, self.step))

    @property
    def messages(self) -> list[dict[str, str]]:
        """The opening as messages of a chat template."""
        if isinstance(self.opening, str):
            return [{"role": "user", "content": self.opening}]
        return [{"role": message.role, "content": message.content} for message in self.opening.messages]

    @property
    def question(self) -> str:
        """The last message of the opening, or its text."""
        return self.messages[-1]["content"]

    def split_steps(self, delimiter: str) -> list[str]:
        """The steps before, split and without blank ends, and the rated step as the last of them."""
        before = "".join(self.context).split(delimiter)
        return [*(part.strip() for part in before if part.strip()), self.step.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedStep:
    """A step as one reward model reads it.

    Args:
        ids: The whole text that it reads.
        types: For encoders that tell two texts apart, which of them each token belongs to.
        rated: Places in `ids` whose tokens are rated, for models that rate tokens.
        parts: For a combination, what each of its models reads.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()
    rated: tuple[int, ...] = ()
    parts: tuple[EncodedStep, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that are read where nothing is reused."""
        return len(self.ids) + sum(part.num_tokens for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What a reward model says of a step.

    Args:
        score: In [0, 1].
        num_read: Tokens computed for it.
        num_reused: Tokens of its path whose keys and values were there already.
    """

    score: float
    num_read: int
    num_reused: int = 0

    def __post_init__(self) -> None:
        if math.isnan(self.score):
            raise EngineError("The reward model returned NaN. A wider dtype may help: dtype='float32'.")
        if not 0.0 <= self.score <= 1.0:
            raise EngineError(f"Got {self.score = } from a reward model but expected a value in [0, 1].")


class PromptReader:
    """Turns the prompt of a `Score` request into a `StepInput`; belongs to the generator that wrote the prompt."""

    def __init__(self, loaded: LoadedModel, encoder: PromptEncoder) -> None:
        self._tokenizer = loaded.tokenizer
        self._special_ids = frozenset(loaded.tokenizer.all_special_ids) | loaded.eos_token_ids
        self._encoder = encoder

    def read(self, prompt: Prompt) -> StepInput:
        """The last segment is the step, the first is the opening, what is between is context.

        The end of the turn is left out of the step: it is no part of its text.

        Raises:
            ConfigurationError: There is no step beside the opening, or a segment cannot be encoded.
        """
        if len(prompt.segments) < 2:
            raise ConfigurationError(
                "Got a prompt of one segment to score but expected at least two: the question, and the step that is "
                'rated as the last one. Build it as Prompt.chat("...") + "first step" + "second step".'
            )
        opening, *between = prompt.segments[:-1]
        last = self._trim(prompt.segments[-1])
        texts = [self._read_text(segment) for segment in (*between, last)]
        return StepInput(
            opening=opening if isinstance(opening, Chat) else self._read_text(opening),
            context=tuple(texts[:-1]),
            step=texts[-1],
            native=self._encode((opening, *between, last)),
        )

    def _encode(self, segments: tuple[Segment, ...]) -> NativeIds | None:
        opening = segments[:1]
        if isinstance(opening[0], Chat) and not getattr(self._tokenizer, "chat_template", None):
            return None  # the reward model may have a template, even where the generator has none
        lengths = [len(self._encoder.encode(Prompt(segments[:end]))) for end in (1, len(segments) - 1)]
        ids = self._encoder.encode(Prompt(segments))
        return NativeIds(ids=ids, num_opening=lengths[0], num_before=lengths[1], tokenizer=self._tokenizer)

    def _trim(self, segment: Segment) -> Segment:
        if not isinstance(segment, TokenIds):
            return segment
        ids = segment.ids
        while ids and ids[-1] in self._special_ids:
            ids = ids[:-1]
        return TokenIds(ids=ids)

    def _read_text(self, segment: Segment) -> str:
        if isinstance(segment, TokenIds):
            return str(
                self._tokenizer.decode(
                    segment.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
        if isinstance(segment, Chat):
            raise ConfigurationError("Got a conversation as a step but expected text or token ids.")
        return segment
