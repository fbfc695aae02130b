"""Scalar heads: one number for a conversation, as `AutoModelForSequenceClassification` with one label gives it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.rewards.heads import check_context, encode_text, make_reader, render_chat, run_head
from hf_dynasor.serving.rewards.reader import MAX_BATCH_TOKENS
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput


class ScalarHeadReward:
    """The sigmoid of a scalar head at the end of the conversation (Skywork style).

    The path so far is the assistant's turn in the model's own chat template. A model without a template reads the
    question and the path as a pair of texts, as encoders are trained to.

    Args:
        loaded: A model with `num_labels` 1, and its tokenizer.
        closes_turn: Score the finished turn, its end included, as outcome models are trained. Off, the path is read
            as far as it is written, as models are that score at every step.
        ending: Written after a path that does not end with it, such as the step delimiter; not with `closes_turn`.
        sizes: `max_batch_tokens` and `max_cached_tokens` of `PathReader`.

    Raises:
        ConfigurationError: The model has another number of labels.
    """

    normaliser = "sigmoid of the scalar head"

    def __init__(
        self, loaded: LoadedModel, *, closes_turn: bool = True, ending: str = "", **sizes: Any
    ) -> None:
        num_labels = loaded.model.config.num_labels
        if num_labels != 1:
            raise ConfigurationError(
                f"Got a model with {num_labels = } but a scalar head has 1. For two classes at a separator token use "
                "kind='step_classes'."
            )
        self._loaded = loaded
        self._closes_turn = closes_turn
        self._ending = ending
        self._max_batch_tokens = int(sizes.get("max_batch_tokens", MAX_BATCH_TOKENS))
        model = loaded.model
        self.reader = (
            make_reader(loaded, run_head(model, model.score), num_features=1, **sizes)
            if is_causal_head(model)
            else None
        )

    @property
    def name(self) -> str:
        """Such as `scalar(Skywork-Reward-V2-Qwen3-0.6B)`."""
        return f"scalar({self._loaded.name})"

    @property
    def model(self) -> Any:
        """The transformers model that reads."""
        return self._loaded.model

    def encode(self, step: StepInput) -> EncodedStep:
        """Question and path in the chat template, or as a pair of texts."""
        tokenizer = self._loaded.tokenizer
        if getattr(tokenizer, "chat_template", None):
            ids = encode_text(tokenizer, self._render(step))
            types: tuple[int, ...] = ()
        else:
            pair = tokenizer(step.question, step.written)
            ids, types = tuple(pair["input_ids"]), tuple(pair.get("token_type_ids", ()))
        check_context(self._loaded, ids)
        return EncodedStep(ids=ids, types=types)

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The sigmoid of the head at the last token."""
        if self.reader is None:
            return self._score_whole(steps)
        return [
            Rating(score=_sigmoid(found.last[0]), num_read=found.num_read, num_reused=found.num_reused)
            for found in self.reader.read([step.ids for step in steps])
        ]

    def _render(self, step: StepInput) -> str:
        if self._closes_turn:
            messages = [*step.messages, {"role": "assistant", "content": step.written}]
            return render_chat(self._loaded, messages)
        written = step.written
        if written and not written.endswith(self._ending):
            written += self._ending
        return render_chat(self._loaded, step.messages, add_generation_prompt=True) + written

    @torch.inference_mode()
    def _score_whole(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """For encoders, which see every token at once: nothing can be reused."""
        order = sorted(range(len(steps)), key=lambda index: len(steps[index].ids))
        ratings: dict[int, Rating] = {}
        while order:
            count = max(1, self._max_batch_tokens // len(steps[order[-1]].ids))
            chosen, order = order[-count:], order[:-count]
            logits = self._run_whole([steps[index] for index in chosen])
            for index, logit in zip(chosen, logits, strict=True):
                ratings[index] = Rating(score=_sigmoid(logit), num_read=len(steps[index].ids))
        return [ratings[index] for index in range(len(steps))]

    def _run_whole(self, steps: Sequence[EncodedStep]) -> list[float]:
        """Padded on the right, as positions of encoders are counted from the left."""
        model = self._loaded.model
        length = max(len(step.ids) for step in steps)
        gaps = [length - len(step.ids) for step in steps]
        pad = self._loaded.pad_token_id
        rows = {
            "input_ids": [[*step.ids, *[pad] * gap] for step, gap in zip(steps, gaps, strict=True)],
            "attention_mask": [
                [1] * len(step.ids) + [0] * gap for step, gap in zip(steps, gaps, strict=True)
            ],
        }
        if steps[0].types and "token_type_ids" in inspect.signature(model.forward).parameters:
            rows["token_type_ids"] = [
                [*step.types, *[0] * gap] for step, gap in zip(steps, gaps, strict=True)
            ]
        inputs = {name: torch.tensor(values, device=model.device) for name, values in rows.items()}
        logits: list[float] = model(**inputs).logits[:, 0].float().tolist()
        return logits


def is_causal_head(model: Any) -> bool:
    """Whether a model is a decoder with a head on its last token, which may go on from keys and values."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return hasattr(model, "score") and "past_key_values" in parameters


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    small = math.exp(value)
    return small / (1.0 + small)
