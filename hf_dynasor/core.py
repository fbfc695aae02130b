"""The vocabulary: prompts, requests, completions and the token account. Read this first.

Every message is frozen: what was yielded or delivered never changes. This module knows no model, no
engine and no program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Literal, TypeAlias

from hf_dynasor.errors import ConfigurationError

MAX_SEED = 2**63 - 1
MAX_TOP_LOGPROBS = 20


class FinishReason(str, Enum):
    """Why a request ended. Every request ends in exactly one completion with exactly one of these."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the engine renders with the model's own chat template and generation prompt.

    Args:
        messages: The turns, oldest first.
        enable_thinking: Passed to the chat template; `None` leaves the template's default.
    """

    messages: tuple[Message, ...]
    enable_thinking: bool | None = None

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigurationError("Got an empty conversation but expected at least one message.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Token ids that are used as they are, never re-tokenised."""

    ids: tuple[int, ...]


Segment: TypeAlias = str | TokenIds | Chat


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request continues: segments that an engine encodes each by itself and joins as ids.

    A longer prompt therefore always begins with the ids of the shorter one, whatever a tokenizer would
    merge across the border: prefix reuse, probes and tree search rest on that.

    Args:
        segments: Text (encoded without special tokens), `TokenIds`, or one leading `Chat`.

    Examples:
        >>> prompt = Prompt.chat("What is 2+3?")
        >>> len((prompt + TokenIds(ids=(5, 7)) + " so").segments)
        3
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise ConfigurationError("Got a prompt without segments but expected at least one.")
        if any(isinstance(segment, Chat) for segment in self.segments[1:]):
            raise ConfigurationError(
                "A Chat segment is rendered from its beginning: it can only be the first one."
            )

    @classmethod
    def chat(cls, question: str, *, system: str | None = None, enable_thinking: bool | None = None) -> Prompt:
        """A prompt that asks one question in the model's own chat template."""
        opening = (Message(role="system", content=system),) if system else ()
        messages = (*opening, Message(role="user", content=question))
        return cls((Chat(messages=messages, enable_thinking=enable_thinking),))

    @classmethod
    def plain(cls, text: str) -> Prompt:
        """A prompt of bare text, for models without a chat template."""
        return cls((text,))

    def __add__(self, segment: Segment) -> Prompt:
        return Prompt((*self.segments, segment))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request is decoded.

    Args:
        max_new_tokens: Most tokens to generate, EOS included; at least 1.
        temperature: 0 decodes greedily; otherwise logits are divided by it.
        top_p: Keep the smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: Keep the k likeliest tokens; `None` keeps all.
        min_p: Drop tokens less likely than this share of the likeliest one's probability, in [0, 1).
        repetition_penalty: Divides positive and multiplies negative logits of every token of the prompt and the
            text so far; above 0, 1 does nothing.
        presence_penalty: Taken once from the logit of every token generated so far.
        frequency_penalty: Taken from a token's logit for each time that it was generated.
        logit_bias: Pairs of token id and what is added to its logit.
        stop: Strings that end the request; the text is cut before the first one.
        stop_token_ids: Token ids that end the request, as EOS does.
        ignore_eos: Go on when the model ends its turn, until another bound.
        min_new_tokens: Neither EOS nor `stop_token_ids` can be drawn before so many tokens.
        seed: Makes the request's own draws reproducible. An engine honours it or refuses it.
        logprobs: Return the log-probability of every generated token (natural logarithm, of the
            distribution that it was drawn from before temperature, penalties, top-k, top-p and the like).
        num_top_logprobs: With `logprobs`: how many of the likeliest tokens to report at each position, at most
            20.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    seed: int | None = None
    logprobs: bool = False
    num_top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigurationError(f"Got {self.max_new_tokens = } but expected at least 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(
                f"Got {self.temperature = } but expected 0 (greedy) or a positive number."
            )
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"Got {self.top_p = } but expected a value in (0, 1].")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigurationError(f"Got {self.top_k = } but expected at least 1, or None for all tokens.")
        if any(not text for text in self.stop):
            raise ConfigurationError(
                "Got an empty stop string: it would stop every request at once. Remove it."
            )
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ConfigurationError(f"Got {self.seed = } but expected a value in [0, 2**63 - 1].")
        self._check_shaping()

    def _check_shaping(self) -> None:
        if not 0 <= self.min_p < 1:
            raise ConfigurationError(f"Got {self.min_p = } but expected a value in [0, 1).")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ConfigurationError(f"Got {self.repetition_penalty = } but expected a number above 0.")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ConfigurationError(
                    f"Got {name} = {getattr(self, name)} but expected a value in [-2, 2]."
                )
        for token_id, bias in self.logit_bias:
            if token_id < 0 or not -100 <= bias <= 100:
                raise ConfigurationError(
                    f"Got logit_bias {bias} for token {token_id} but expected ids from 0 and a bias in [-100, 100]."
                )
        if any(token_id < 0 for token_id in self.stop_token_ids):
            raise ConfigurationError(f"Got {self.stop_token_ids = } but expected ids from 0.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ConfigurationError(
                f"Got {self.min_new_tokens = } but expected at most {self.max_new_tokens = }, and no less than 0."
            )
        if not 0 <= self.num_top_logprobs <= MAX_TOP_LOGPROBS:
            raise ConfigurationError(
                f"Got {self.num_top_logprobs = } but expected a value in [0, {MAX_TOP_LOGPROBS}]."
            )
        if self.num_top_logprobs and not self.logprobs:
            raise ConfigurationError(
                f"Got {self.num_top_logprobs = } without logprobs. Set logprobs=True, or leave it at 0."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """Names one request among all programs of an engine."""

    program_id: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Continue a prompt.

    Args:
        key: Unique among the requests that an engine has in flight.
        prompt: What is continued.
        sampling: How it is decoded.
        stream: Deliver a `TokenDelta` for every step besides the final completion.
        is_probe: Its tokens are counted as probe tokens: they elicit an answer and are then discarded.
    """

    key: RequestKey
    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stream: bool = False
    is_probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Rate a prompt with a reward model; the completion carries `score` in [0, 1]."""

    key: RequestKey
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Give up requests in flight. Each still ends in its one completion (`cancelled`, or what it had become)."""

    keys: tuple[RequestKey, ...]


Request: TypeAlias = Generate | Score
Command: TypeAlias = Generate | Score | Cancel


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """An honest token account; every field counts tokens.

    Args:
        prompt: Prompt tokens, cached ones included.
        cached: Those of the prompt tokens that were not computed again.
        sampled: Tokens sampled for an answer, cancelled paths included.
        forced: Tokens that were forced into a path.
        probe: Tokens generated or forced by probes, then discarded.
        reward: Tokens read by a reward model.
    """

    prompt: int = 0
    cached: int = 0
    sampled: int = 0
    forced: int = 0
    probe: int = 0
    reward: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise ConfigurationError(
                    f"Got {item.name} = {getattr(self, item.name)} tokens but expected 0 or more."
                )
        if self.cached > self.prompt:
            raise ConfigurationError(f"Got {self.cached = } but expected at most {self.prompt = }.")

    @property
    def net_tokens(self) -> int:
        """Everything generated, forced or read for a program beyond its prompts."""
        return self.sampled + self.forced + self.probe + self.reward

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            **{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        )

    def to_dict(self) -> dict[str, int]:
        """The six counts and `net_tokens`, ready for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "net_tokens": self.net_tokens
        }


TopLogprobs: TypeAlias = tuple[tuple[int, float], ...]
"""The likeliest tokens at one position, each with its natural-log probability, likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """New tokens of a streamed request. The texts of all deltas joined are the completion's text.

    Their log-probabilities come along where they were asked for.
    """

    key: RequestKey
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """How a request ended.

    Args:
        key: The request.
        text: Generated text, special tokens of the turn's end left out, cut before a stop string.
        token_ids: Every token that was generated, EOS and the tokens of a stop string included; empty where a server
            does not tell them.
        finish_reason: Why it ended.
        usage: Its tokens.
        logprobs: Natural-log probability of each of `token_ids`, where asked for.
        top_logprobs: The likeliest tokens at each position, where `num_top_logprobs` asked for them.
        offsets: For each of `token_ids`, the character of `text` where it begins, where logprobs were asked
            for; tokens past a stop string's cut point at `len(text)`.
        score: A `Score` request's result in [0, 1].
        error: What went wrong, with `FinishReason.FAILED` only.
    """

    key: RequestKey
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None
    offsets: tuple[int, ...] | None = None
    score: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.error is not None) != (self.finish_reason is FinishReason.FAILED):
            raise ConfigurationError(
                f"Got {self.finish_reason = } with {self.error = }: failures, and only they, carry one."
            )
        # A server may tell the probabilities of tokens and their places in the text, but not their ids.
        count = len(self.token_ids) or len(self.offsets or ())
        for name in ("logprobs", "top_logprobs", "offsets"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ConfigurationError(
                    f"Got {len(values)} {name} for {count} tokens but expected one each."
                )


Event: TypeAlias = TokenDelta | Completion
