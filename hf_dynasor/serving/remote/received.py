"""What one attempt has brought so far, and what of it the caller has been told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hf_dynasor.core import FinishReason, Generate, SamplingParams
from hf_dynasor.serving.remote.chunks import Chunk, Counted, find_reason
from hf_dynasor.serving.remote.failures import RemoteFailure, broken
from hf_dynasor.serving.remote.stop_strings import StopWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is new and may be told.

    Args:
        text: Text that is certain to stay.
        token_ids: Tokens, where known.
        logprobs: Of the tokens, where asked for.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(slots=True)
class Received:
    """One attempt's answer as it grows.

    Args:
        request: What was asked for.
        eos_token_ids: What ends a turn, where known.
        stops_here: Whether stop strings are found here rather than by the server.
    """

    request: Generate
    eos_token_ids: frozenset[int] = frozenset()
    stops_here: bool = False
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    num_chunks: int = 0
    counted: Counted | None = None
    reason: FinishReason | None = None
    _watch: StopWatch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = StopWatch(self.sampling.stop if self.stops_here else ())

    @property
    def sampling(self) -> SamplingParams:
        """How it is decoded."""
        return self.request.sampling

    @property
    def is_stopped_here(self) -> bool:
        """Whether a stop string was found that the server knows nothing of."""
        return self._watch.is_stopped

    @property
    def num_tokens(self) -> int:
        """Tokens that came, as well as it can be known without an account."""
        return len(self.token_ids) or len(self.logprobs) or self.num_chunks

    def take(self, chunk: Chunk) -> Piece:
        """Add a chunk; what is new.

        Raises:
            RemoteFailure: The server gave the request up.
        """
        self.counted = chunk.counted or self.counted
        if self.reason is not None:  # only the account may still follow
            return Piece()
        self.num_chunks += bool(chunk.text or chunk.token_ids)
        self.token_ids += chunk.token_ids
        self.tokens += chunk.tokens
        self.logprobs += chunk.logprobs
        text = self._watch.push(chunk.text)
        if self._watch.is_stopped:
            self.reason = FinishReason.STOP
        elif chunk.finish is not None:
            text += self._watch.finish()
            last_id = self.token_ids[-1] if self.token_ids else None
            told = replace(self.sampling, stop=()) if self.stops_here else self.sampling
            self.reason = find_reason(chunk, told, last_id, self.eos_token_ids)
        self.text += text
        return Piece(text=text, token_ids=chunk.token_ids, logprobs=chunk.logprobs)

    def end(self) -> None:
        """The server said that the stream is over.

        Raises:
            RemoteFailure: It has not said why the request ended.
        """
        if self.reason is None:
            raise broken("The stream ended before the answer did.")

    def check_whole(self) -> None:
        """The answer has what was asked for.

        Raises:
            RemoteFailure: The server left log-probabilities out.
        """
        count = len(self.logprobs)
        expected = len(self.token_ids) or (1 if self.text and not count else count)
        if self.sampling.logprobs and count != expected and not self.is_stopped_here:
            raise RemoteFailure(
                f"The server sent {count} log-probabilities for {expected or 'no'} tokens. It seems not to offer them: "
                "ask for none, or name another dialect."
            )


@dataclass(slots=True)
class Teller:
    """Passes pieces on once, however often a request is sent: what was told is skipped when it comes again.

    Attributes:
        text: All that was told.
        num_ids: Tokens that were told.
    """

    text: str = ""
    num_ids: int = 0
    _skip_text: str = ""
    _skip_ids: int = 0

    def restart(self) -> None:
        """The request is sent again."""
        self._skip_text, self._skip_ids = self.text, self.num_ids

    def take(self, piece: Piece) -> Piece:
        """What of a piece is new.

        Raises:
            RemoteFailure: The server says something else than before.
        """
        size = min(len(piece.text), len(self._skip_text))
        if piece.text[:size] != self._skip_text[:size]:
            raise RemoteFailure(
                "The stream broke after a part of it had been passed on, and asked again the server answers "
                "differently. Send a seed to a server that honours it, or do not stream."
            )
        self._skip_text = self._skip_text[size:]
        num_known = min(len(piece.token_ids), self._skip_ids)
        self._skip_ids -= num_known
        new = Piece(
            text=piece.text[size:],
            token_ids=piece.token_ids[num_known:],
            logprobs=piece.logprobs[num_known:],
        )
        self.text += new.text
        self.num_ids += len(new.token_ids)
        return new

    def finish(self) -> None:
        """The answer is whole.

        Raises:
            RemoteFailure: It is shorter than what was told before.
        """
        if self._skip_text:
            raise RemoteFailure(
                "The stream broke after a part of it had been passed on, and asked again the server answers less."
            )
