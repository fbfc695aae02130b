"""Runs the choices of one request over one channel, and collects what each of them said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.clock import Clock
from hf_dynasor.core import Command, Completion, FinishReason, RequestKey, TopLogprobs, Usage
from hf_dynasor.errors import EngineError
from hf_dynasor.serving.http.branches import Branch, Piece
from hf_dynasor.serving.http.bridge import Channel, check_time
from hf_dynasor.serving.http.reasoning import ReasoningSplitter, Split
from hf_dynasor.serving.http.shapes import name_finish
from hf_dynasor.stopping import RowThinking

SILENCE_S = 1.0


@dataclass(slots=True, eq=False)
class Choice:
    """One choice and what it has said so far."""

    index: int
    branch: Branch
    splitter: ReasoningSplitter
    reasoning: str = ""
    content: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    thinking: RowThinking | None = None

    @property
    def num_reasoning(self) -> int:
        """Tokens of its thinking."""
        return self.thinking.num_tokens if self.thinking is not None else 0

    @property
    def completion(self) -> Completion:
        """How it ended; only to be read once it has."""
        completion = self.branch.completion
        assert completion is not None
        return completion

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self.branch.completion is not None

    def take(self, piece: Piece) -> Split:
        """Add a piece; returns its text, told apart."""
        if self.thinking is not None:
            for token_id in piece.token_ids:
                self.thinking.append(token_id)
        split = self.splitter.push(piece.text)
        if self.is_done:
            rest = self.splitter.finish()
            split = Split(reasoning=split.reasoning + rest.reasoning, content=split.content + rest.content)
        self.reasoning += split.reasoning
        self.content += split.content
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs
        self.top_logprobs += piece.top_logprobs
        return split


@dataclass(frozen=True, slots=True)
class Update:
    """What came: a piece of a choice with its text told apart, or silence (no choice).

    `has_more` tells that the next update is there already, so that a stream may write both at once.
    """

    choice: Choice | None
    piece: Piece = field(default_factory=Piece)
    split: Split = field(default_factory=Split)
    has_more: bool = False


async def run_choices(
    channel: Channel, choices: Sequence[Choice], *, clock: Clock, timeout_s: float
) -> AsyncIterator[Update]:
    """Run all choices together until the last has ended.

    Args:
        channel: Where their commands go.
        choices: Fresh choices.
        clock: For the time limit.
        timeout_s: Seconds that all of them together may take.

    Raises:
        EngineError: A choice failed, the engine died, or the time is over.
    """
    deadline = clock.now() + timeout_s
    owners: dict[RequestKey, Choice] = {}
    commands = [command for choice in choices for command in _claim(choice, choice.branch.start(), owners)]
    await channel.send(commands)
    yield Update(None)  # under way: a stream may begin now, and what failed before is a plain error
    left = set(choices)
    while left:
        event = await channel.receive(min(SILENCE_S, timeout_s))
        check_time(clock.now(), deadline, timeout_s)
        if event is None:
            yield Update(None)
            continue
        choice = owners[event.key]
        if choice.is_done:  # a probe that was cancelled with its choice
            yield Update(None)
            continue
        piece, commands = _receive(choice, event)
        if commands:
            await channel.send(_claim(choice, commands, owners))
        channel.life.note_tokens(choice.index, len(piece.token_ids))
        if choice.is_done:
            left.discard(choice)
        yield Update(choice, piece, choice.take(piece), has_more=channel.has_waiting)
    channel.life.finish(sum_usage(choices), [name_finish(choice.completion) for choice in choices])


def sum_usage(choices: Sequence[Choice]) -> Usage:
    """Tokens of all choices."""
    return sum((choice.completion.usage for choice in choices if choice.is_done), Usage())


def _receive(choice: Choice, event: Any) -> tuple[Piece, list[Command]]:
    piece, commands = choice.branch.receive(event)
    completion = choice.branch.completion
    if completion is not None and completion.finish_reason is FinishReason.FAILED:
        raise EngineError(completion.error or "The engine failed the request.")
    if completion is not None and completion.finish_reason is FinishReason.CANCELLED:
        raise EngineError("The engine was closed while the request ran. Send it again.")
    return piece, list(commands)


def _claim(choice: Choice, commands: Sequence[Command], owners: dict[RequestKey, Choice]) -> list[Command]:
    for command in commands:
        key = getattr(command, "key", None)
        if key is not None:
            owners[key] = choice
    return list(commands)
