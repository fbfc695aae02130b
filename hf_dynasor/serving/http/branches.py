"""One choice of a request, from its first command to its completion: plain, or watched so that its thinking may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hf_dynasor.certaindex.readings import Need, Progress, Reading, Verdict, Vote
from hf_dynasor.core import (
    Command,
    Completion,
    Event,
    Generate,
    Prompt,
    RequestKey,
    SamplingParams,
    TokenDelta,
    TokenIds,
    TopLogprobs,
)
from hf_dynasor.serving.text_stream import TextStream
from hf_dynasor.stopping import StreamWatch, WatchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event added to a choice.

    Args:
        text: Text that is certain to stay.
        token_ids: Tokens, those of held-back text included.
        logprobs: Of the tokens, where asked for.
        top_logprobs: The likeliest tokens at each place, where asked for.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()


class Branch(Protocol):
    """A choice that is being generated."""

    @property
    def completion(self) -> Completion | None:
        """How it ended, once it has."""
        ...

    def start(self) -> tuple[Command, ...]:
        """What is to be sent first."""
        ...

    def receive(self, event: Event) -> tuple[Piece, tuple[Command, ...]]:
        """Take in an event; what it added, and what is to be sent now."""
        ...


class PlainBranch:
    """A request as it is."""

    def __init__(
        self, key: RequestKey, prompt_ids: tuple[int, ...], sampling: SamplingParams, *, stream: bool
    ) -> None:
        self._request = Generate(
            key=key, prompt=Prompt((TokenIds(ids=prompt_ids),)), sampling=sampling, stream=stream
        )
        self.completion: Completion | None = None

    def start(self) -> tuple[Command, ...]:
        """The request."""
        return (self._request,)

    def receive(self, event: Event) -> tuple[Piece, tuple[Command, ...]]:
        """A delta is a piece; the completion is one only where nothing was streamed."""
        if isinstance(event, TokenDelta):
            piece = Piece(
                text=event.text,
                token_ids=event.token_ids,
                logprobs=event.logprobs,
                top_logprobs=event.top_logprobs,
            )
            return piece, ()
        self.completion = event
        if self._request.stream:
            return Piece(), ()
        piece = Piece(
            text=event.text,
            token_ids=event.token_ids,
            logprobs=event.logprobs or (),
            top_logprobs=event.top_logprobs or (),
        )
        return piece, ()


class SwitchedBranch:
    """A streamed request whose thinking ends only if somebody throws its switch: plain until then.

    Args:
        plain: The request.
        switch: What may be thrown.
        watch: Makes the branch that takes over then, of the same request.
    """

    def __init__(self, plain: PlainBranch, switch: Switch, watch: Callable[[], WatchedBranch]) -> None:
        self._plain, self._switch, self._watch = plain, switch, watch
        self._watched: WatchedBranch | None = None
        self._token_ids: list[int] = []
        self._num_characters = 0

    @property
    def completion(self) -> Completion | None:
        """How it ended, once it has."""
        return self._plain.completion if self._watched is None else self._watched.completion

    def start(self) -> tuple[Command, ...]:
        """The request."""
        return self._plain.start()

    def receive(self, event: Event) -> tuple[Piece, tuple[Command, ...]]:
        """As the plain branch; from the first token after the switch was thrown as the watched one."""
        if self._watched is not None:
            return self._watched.receive(event)
        if self._switch.is_thrown and isinstance(event, TokenDelta):
            return self._hand_over(event)
        piece, commands = self._plain.receive(event)
        self._token_ids += piece.token_ids
        self._num_characters += len(piece.text)
        return piece, commands

    def _hand_over(self, delta: TokenDelta) -> tuple[Piece, tuple[Command, ...]]:
        """The watch reads everything so far at once, and its text is that of the plain branch so far and more."""
        self._watched = self._watch()
        everything = TokenDelta(key=delta.key, text="", token_ids=(*self._token_ids, *delta.token_ids))
        piece, commands = self._watched.receive(everything)
        return Piece(text=piece.text[self._num_characters :], token_ids=delta.token_ids), commands


class WatchedBranch:
    """A request whose thinking a rule may end: the watch's tokens, as text."""

    def __init__(
        self,
        settings: WatchSettings,
        key: RequestKey,
        prompt_ids: tuple[int, ...],
        sampling: SamplingParams,
    ) -> None:
        self.watch = StreamWatch(settings, key, prompt_ids, sampling)
        self._endings = settings.eos_token_ids | frozenset(sampling.stop_token_ids)
        self._stream = TextStream(settings.tokenizer, prompt_ids, sampling.stop)
        self._num_taken = 0

    @property
    def completion(self) -> Completion | None:
        """The watch's completion, with the text that was released."""
        return self.watch.completion

    def start(self) -> tuple[Command, ...]:
        """The watch's own request."""
        return self.watch.start()

    def receive(self, event: Event) -> tuple[Piece, tuple[Command, ...]]:
        """Tell the watch, and turn its new tokens into text."""
        commands = self.watch.receive(event)
        new = self.watch.token_ids[self._num_taken :]
        self._num_taken += len(new)
        text = "".join(self._push(token_id) for token_id in new)
        if self.watch.completion is not None:
            text += self._stream.finish()
        return Piece(text=text, token_ids=new), commands

    def _push(self, token_id: int) -> str:
        if self._stream.is_stopped:
            return ""
        if token_id in self._endings:
            self._stream.push_silent()
            return ""
        return self._stream.push(token_id)


@dataclass(slots=True)
class Switch:
    """A rule that stops the thinking once somebody throws it, at the next token."""

    is_thrown: bool = field(default=False)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    @property
    def reads_text(self) -> bool:
        """False."""
        return False

    def start(self) -> Switch:
        """All rows share the switch."""
        return self

    def is_due(self, progress: Progress) -> bool:
        """Once it is thrown."""
        return self.is_thrown

    def observe(self, reading: Reading) -> Verdict:
        """Stop, if it is thrown."""
        if not self.is_thrown:
            return Verdict(vote=Vote.ABSTAIN)
        return Verdict(vote=Vote.FORCE, reason="the client ended the thinking")
