"""From a prompt to what a server takes: token ids where it can be, else a text, else a conversation.

A prompt's beginning stays the same over the wire when more is added to it, so that the server finds it in its cache.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from hf_dynasor.core import Chat, Prompt, Segment, TokenIds
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import TEMPLATE_ERRORS, PromptEncoder
from hf_dynasor.serving.remote.dialects import Dialect
from hf_dynasor.serving.remote.failures import broken
from hf_dynasor.serving.remote.wire import WirePrompt

MAX_REMEMBERED = 1024
"""Segments whose ids are kept, so that a server is asked for them once."""

Ask: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Posts a body to a path of the server and returns the answer."""


class PromptWriter(Protocol):
    """Writes prompts for one server."""

    @property
    def describes(self) -> str:
        """What it sends, for people."""
        ...

    def write(self, prompt: Prompt) -> WirePrompt | None:
        """The prompt as it is sent; `None` where the server has to be asked for it first.

        Raises:
            ConfigurationError: It cannot be encoded.
            UnsupportedError: The server cannot be sent such a prompt.
        """
        ...

    async def fetch(self, prompt: Prompt, ask: Ask) -> WirePrompt:
        """The prompt, the server having been asked."""
        ...


class LocalWriter:
    """Encodes with a tokenizer of this process.

    Args:
        loaded: Tokenizer and configuration.
        dialect: Whether ids are taken.
    """

    def __init__(self, loaded: LoadedModel, dialect: Dialect) -> None:
        self.encoder = PromptEncoder(loaded)
        self._tokenizer, self._name = loaded.tokenizer, loaded.name
        self._takes_ids = dialect.takes_ids

    @property
    def describes(self) -> str:
        """Ids, or text."""
        return f"{'token ids' if self._takes_ids else 'texts'} by {self._name}'s tokenizer"

    def write(self, prompt: Prompt) -> WirePrompt:
        """As ids, or as one text."""
        ids = self.encoder.encode(prompt)
        if self._takes_ids:
            return WirePrompt(ids=ids)
        return WirePrompt(text="".join(map(self._write_segment, prompt.segments)))

    async def fetch(self, prompt: Prompt, ask: Ask) -> WirePrompt:
        """Nobody has to be asked."""
        return self.write(prompt)

    def _write_segment(self, segment: Segment) -> str:
        if isinstance(segment, TokenIds):
            return str(self._tokenizer.decode(segment.ids, skip_special_tokens=False))
        return segment if isinstance(segment, str) else self._render(segment)

    def _render(self, chat: Chat) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
        options = {} if chat.enable_thinking is None else {"enable_thinking": chat.enable_thinking}
        try:
            text = str(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False, **options
                )
            )
        except TEMPLATE_ERRORS as error:
            raise ConfigurationError(
                f"{self._name}'s chat template refuses the conversation: {error}"
            ) from error
        bos = self._tokenizer.bos_token  # the server's tokenizer adds it to every text
        adds_bos = bos and self._tokenizer.encode("")[:1] == [self._tokenizer.bos_token_id]
        return text.removeprefix(bos) if adds_bos else text


class ServerWriter:
    """Has the server encode each segment by itself, once, and sends ids."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Segment, bool], tuple[int, ...]] = OrderedDict()
        self._lock = asyncio.Lock()  # requests that arrive together ask once

    @property
    def describes(self) -> str:
        """Ids."""
        return "token ids by the server's /tokenize"

    def write(self, prompt: Prompt) -> None:
        """The server is asked first."""
        return None

    async def fetch(self, prompt: Prompt, ask: Ask) -> WirePrompt:
        """The ids of all segments, joined."""
        ids: list[int] = []
        for index, segment in enumerate(prompt.segments):
            ids += await self._encode(segment, index == 0, ask)
        return WirePrompt(ids=tuple(ids))

    async def _encode(self, segment: Segment, is_first: bool, ask: Ask) -> tuple[int, ...]:
        if isinstance(segment, TokenIds):
            return segment.ids
        key = (segment, is_first)
        async with self._lock:
            if key not in self._known:
                self._known[key] = _read_tokens(await ask("/tokenize", _shape_tokenize(segment, is_first)))
                if len(self._known) > MAX_REMEMBERED:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


def _read_tokens(answer: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(int(token_id) for token_id in answer["tokens"])
    except (KeyError, TypeError, ValueError):
        raise broken(f"The server's /tokenize answered {str(answer)[:100]!r}.") from None


def _shape_tokenize(segment: str | Chat, is_first: bool) -> dict[str, Any]:
    if isinstance(segment, str):
        return {"prompt": segment, "add_special_tokens": is_first}
    body: dict[str, Any] = {
        "messages": [{"role": turn.role, "content": turn.content} for turn in segment.messages],
        "add_generation_prompt": True,
    }
    if segment.enable_thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": segment.enable_thinking}
    return body


class PlainWriter:
    """Sends conversations and texts as they are; nothing here knows tokens.

    Args:
        dialect: What the server takes.
        engine_name: For messages.
    """

    def __init__(self, dialect: Dialect, engine_name: str) -> None:
        self._dialect, self._name = dialect, engine_name

    @property
    def describes(self) -> str:
        """Conversations."""
        return "conversations and texts, without a tokenizer"

    def write(self, prompt: Prompt) -> WirePrompt:
        """A conversation, with what the assistant has written, or a text."""
        first, *rest = prompt.segments
        if all(isinstance(segment, TokenIds) for segment in prompt.segments) and self._dialect.takes_ids:
            return WirePrompt(ids=sum((s.ids for s in prompt.segments if isinstance(s, TokenIds)), ()))
        texts = [segment for segment in rest if isinstance(segment, str)]
        if len(texts) < len(rest) or isinstance(first, TokenIds):
            raise self._refuse("token ids")
        if isinstance(first, str):
            return WirePrompt(text=first + "".join(texts))
        if texts and self._dialect.continues == "never":
            raise self._refuse("a conversation whose answer has begun")
        return WirePrompt(chat=first, written="".join(texts))

    async def fetch(self, prompt: Prompt, ask: Ask) -> WirePrompt:
        """Nobody has to be asked."""
        return self.write(prompt)

    def _refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._name} cannot be sent {what}, which chains, trees and probes need, without the model's tokenizer. "
            "Name it: tokenizer= (--tokenizer), a hub name, a folder or a .gguf file."
        )
