"""Where a model's thinking begins and ends: its markers, and the phase of one row. Pure: knows ids and texts only.

Four kinds of model behave: the prompt opens the thinking; the model opens it itself; the prompt closes it already
(thinking switched off); the model has no markers at all, and its whole answer counts as thinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.texts import EXIT_CLOSINGS

KNOWN_MARKERS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<reasoning>", "</reasoning>"),
)
"""Pairs that published models use, tried in this order."""

_CONFIG_NAMES = (
    ("think_start_token_id", "think_end_token_id"),
    ("thinking_start_token_id", "thinking_end_token_id"),
    ("start_thinking_token_id", "end_thinking_token_id"),
)
_RESPONSE_FIELDS = ("reasoning_content", "thinking", "reasoning")
_TAIL_TOKENS = 4


class Phase(str, Enum):
    """Where a row is."""

    BEFORE = "before"
    THINKING = "thinking"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkMarkers:
    """The texts and ids that open and close a model's thinking.

    Args:
        open_text: What opens it.
        close_text: What closes it.
        open_ids: The ids of `open_text`; one for most models.
        close_ids: The ids of `close_text`; one for most models.
    """

    open_text: str
    close_text: str
    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.open_ids or not self.close_ids:
            raise ConfigurationError(
                f"Got no token ids for {self.open_text!r} and {self.close_text!r} but expected at least one each."
            )

    @property
    def is_single(self) -> bool:
        """Whether both are one token, so that ids alone tell them."""
        return len(self.open_ids) == 1 and len(self.close_ids) == 1


def find_think_markers(
    tokenizer: Any, generation_config: Any = None, *, markers: tuple[str, str] | None = None
) -> ThinkMarkers | None:
    """Finds how a model marks its thinking.

    Asked in turn: the caller, the generation config (token ids), the tokenizer's response template, its
    vocabulary, and the text of its chat template (markers of several tokens).

    Args:
        tokenizer: A transformers tokenizer.
        generation_config: The model's generation config, or `None`.
        markers: The texts that open and close the thinking, where they are known.

    Returns:
        The markers; `None` for a model that has none.

    Raises:
        ConfigurationError: No tokenizer, or `markers` that neither the vocabulary nor the chat template has.
    """
    check_tokenizer(tokenizer)
    if markers is not None:
        return _read_given(tokenizer, markers)
    if (configured := _read_config(tokenizer, generation_config)) is not None:
        return configured
    template = _read_chat_template(tokenizer)
    pairs = [*_read_response_template(tokenizer), *KNOWN_MARKERS]
    single = [pair for pair in pairs if all(_find_token(tokenizer, text) is not None for text in pair)]
    # A vocabulary may hold pairs that the model never uses: what its template names comes first.
    single.sort(key=lambda pair: pair[1] not in template)
    if single:
        return _encode_pair(tokenizer, single[0])
    named = [pair for pair in pairs if pair[1] in template]
    return _encode_pair(tokenizer, named[0]) if named else None


class RowThinking:
    """Follows one row token by token.

    Args:
        tokenizer: Decodes the last few tokens, for markers of several tokens and for texts.
        markers: The model's markers; `None` counts everything as thinking.
        prompt_ids: The row's prompt without padding. What stands after its last turn token decides whether
            thinking is open, closed, or not begun.
    """

    def __init__(self, tokenizer: Any, markers: ThinkMarkers | None, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._markers = markers
        self._tail: list[int] = []
        self._tail_length = _TAIL_TOKENS + (
            max(len(markers.open_ids), len(markers.close_ids)) if markers else 0
        )
        self.phase = _read_prompt(tokenizer, markers, prompt_ids)
        self.num_tokens = 0

    def append(self, token_id: int) -> None:
        """Take in the next token. The markers themselves are not counted as thinking."""
        self._tail = [*self._tail, token_id][-self._tail_length :]
        markers = self._markers
        if markers is None:
            self.num_tokens += 1
        elif self.phase is Phase.BEFORE and self._has_just_ended(markers.open_text, markers.open_ids):
            self.phase = Phase.THINKING
        elif self.phase is Phase.THINKING and self._has_just_ended(markers.close_text, markers.close_ids):
            self.phase = Phase.AFTER
        elif self.phase is Phase.THINKING:
            self.num_tokens += 1

    def read_tail(self) -> str:
        """The text of the last few tokens."""
        return str(self._tokenizer.decode(self._tail[-4:])) if self._tail else ""

    @property
    def is_thinking(self) -> bool:
        """Whether the row is inside its thinking."""
        return self.phase is Phase.THINKING

    @property
    def is_at_boundary(self) -> bool:
        """Whether a line or a sentence has just ended."""
        return ends_sentence(self.read_tail())

    def _has_just_ended(self, text: str, ids: tuple[int, ...]) -> bool:
        if len(ids) == 1:
            return self._tail[-1] == ids[0]
        # A tokenizer may merge a marker's last sign with what follows, so texts are compared, not ids.
        before = str(self._tokenizer.decode(self._tail[:-1])) if len(self._tail) > 1 else ""
        return text in str(self._tokenizer.decode(self._tail)) and text not in before


def ends_sentence(text: str) -> bool:
    """Whether a text ends with a line or a sentence; a point after a digit may still be a decimal point.

    Examples:
        >>> ends_sentence("So it is."), ends_sentence("3."), ends_sentence("3.\\n"), ends_sentence("so")
        (True, False, True, False)
    """
    if text.endswith("\n"):
        return True
    text = text.rstrip(" ")
    return text.endswith(("!", "?")) or (text.endswith(".") and not text[-2:-1].isdigit())


def write_closing(
    tokenizer: Any, markers: ThinkMarkers | None, tail: str, text: str = EXIT_CLOSINGS["plain"]
) -> tuple[int, ...]:
    """The ids that close a thought: a line's end where one is missing, the marker's own ids, an empty line.

    Args:
        tokenizer: The model's tokenizer.
        markers: The model's markers; without them only what stands around the marker is written.
        tail: The text before.
        text: What closes it; `{close}` stands for the marker.
    """
    head, _, rest = text.partition("{close}")
    if tail.endswith("\n") or (markers is None and not head.strip()):
        head = head.lstrip("\n")
    close = markers.close_ids if markers else ()
    return (*_encode(tokenizer, head), *close, *_encode(tokenizer, rest))


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ConfigurationError` unless it can encode and decode."""
    if not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
        raise ConfigurationError(
            f"Got tokenizer = {tokenizer!r} but expected the model's tokenizer, from AutoTokenizer.from_pretrained(...)."
        )


def _read_given(tokenizer: Any, markers: tuple[str, str]) -> ThinkMarkers:
    template = _read_chat_template(tokenizer)
    for text in markers:
        if not text or (_find_token(tokenizer, text) is None and text not in template):
            known = [t for pair in KNOWN_MARKERS for t in pair if _find_token(tokenizer, t) is not None]
            raise ConfigurationError(
                f"Got think marker {text!r} but expected a token of the vocabulary or a text of the chat template "
                f"(known markers in this vocabulary: {', '.join(known) or 'none'}). Leave markers out to have them found."
            )
    return _encode_pair(tokenizer, markers)


def _read_config(tokenizer: Any, generation_config: Any) -> ThinkMarkers | None:
    for names in _CONFIG_NAMES:
        start, end = (getattr(generation_config, name, None) for name in names)
        if isinstance(start, int) and isinstance(end, int):
            texts = [str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in (start, end)]
            return ThinkMarkers(open_text=texts[0], close_text=texts[1], open_ids=(start,), close_ids=(end,))
    return None


def _encode_pair(tokenizer: Any, pair: tuple[str, str]) -> ThinkMarkers:
    open_ids, close_ids = (_encode_marker(tokenizer, text) for text in pair)
    return ThinkMarkers(open_text=pair[0], close_text=pair[1], open_ids=open_ids, close_ids=close_ids)


def _encode_marker(tokenizer: Any, text: str) -> tuple[int, ...]:
    token_id = _find_token(tokenizer, text)
    return _encode(tokenizer, text) if token_id is None else (token_id,)


def _find_token(tokenizer: Any, text: str) -> int | None:
    if hasattr(tokenizer, "convert_tokens_to_ids") and hasattr(tokenizer, "convert_ids_to_tokens"):
        # `get_vocab` copies the whole vocabulary: milliseconds, for each request that is watched.
        token_id = tokenizer.convert_tokens_to_ids(text)
        is_there = isinstance(token_id, int) and tokenizer.convert_ids_to_tokens(token_id) == text
        return token_id if is_there else None
    token_id = tokenizer.get_vocab().get(text)
    return int(token_id) if token_id is not None else None


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    if not text:
        return ()
    return tuple(int(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False))


def _read_chat_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else " ".join(map(str, dict(template).values()))


def _read_response_template(tokenizer: Any) -> list[tuple[str, str]]:
    template = getattr(tokenizer, "response_template", None)
    fields = template.get("fields", {}) if isinstance(template, dict) else {}
    found = [fields[name] for name in _RESPONSE_FIELDS if isinstance(fields.get(name), dict)]
    return [
        (item["open"].strip(), item["close"].strip())
        for item in found
        if item.get("open") and item.get("close")
    ]


def _read_prompt(tokenizer: Any, markers: ThinkMarkers | None, prompt_ids: Sequence[int]) -> Phase:
    """The phase that a prompt ends in, judged by what stands after its last turn token."""
    if markers is None:
        return Phase.THINKING
    turns = _find_turn_ids(tokenizer) - {*markers.open_ids, *markers.close_ids}
    start = max((i + 1 for i, token_id in enumerate(prompt_ids) if token_id in turns), default=0)
    turn = list(prompt_ids[start:])
    if markers.is_single:
        opened, closed = (_find_last(turn, ids[0]) for ids in (markers.open_ids, markers.close_ids))
    else:
        text = str(tokenizer.decode(turn)) if turn else ""
        opened, closed = text.rfind(markers.open_text), text.rfind(markers.close_text)
    if opened == closed == -1:
        return Phase.BEFORE
    return Phase.THINKING if opened > closed else Phase.AFTER


def _find_turn_ids(tokenizer: Any) -> set[int]:
    """Ids that can begin or end a turn: special tokens, and added ones that look like markup."""
    added = tokenizer.get_added_vocab() if hasattr(tokenizer, "get_added_vocab") else {}
    return {*tokenizer.all_special_ids, *(i for text, i in added.items() if text.startswith(("<", "[")))}


def _find_last(ids: Sequence[int], token_id: int) -> int:
    return max((i for i, other in enumerate(ids) if other == token_id), default=-1)
