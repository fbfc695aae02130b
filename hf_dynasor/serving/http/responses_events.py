"""The events of a streamed response, numbered: items and their parts open, grow and close. Knows no engine."""

from __future__ import annotations

from typing import Any

from hf_dynasor.serving.http import responses_shapes as shapes
from hf_dynasor.serving.http import sse
from hf_dynasor.serving.http.reasoning import Split

_DELTAS = {"reasoning_text": "response.reasoning_text", "output_text": "response.output_text"}


class EventWriter:
    """Writes one response's events. At most one item is open at a time: the thinking, then the message.

    Args:
        name: The response's id.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_events = 0
        self._kind: str | None = None
        self._text = ""
        self._logprobs: list[Any] = []
        self._num_items = 0

    def write(self, kind: str, **data: Any) -> str:
        """One event."""
        row = {"type": kind, "sequence_number": self._num_events, **data}
        self._num_events += 1
        return sse.encode_event(row, kind)

    def take(self, split: Split, logprobs: list[Any]) -> list[str]:
        """The events of a piece of text, told apart; log-probabilities go with the answer."""
        events = []
        if split.reasoning:
            events += self._grow("reasoning_text", split.reasoning, [])
        if split.content or logprobs:
            events += self._grow("output_text", split.content, logprobs)
        return events

    def close(self, status: str) -> list[str]:
        """Close what is open; an answer without any text still has its message."""
        events = [] if self._num_items else self._open("output_text")
        return events + self._close(status)

    def _grow(self, kind: str, text: str, logprobs: list[Any]) -> list[str]:
        events = []
        if self._kind != kind:
            events += self._close("completed") + self._open(kind)
        self._text += text
        self._logprobs += logprobs
        more = {"logprobs": logprobs} if kind == "output_text" else {}
        return [*events, self.write(f"{_DELTAS[kind]}.delta", **self._place(), delta=text, **more)]

    def _open(self, kind: str) -> list[str]:
        self._kind, self._text, self._logprobs = kind, "", []
        self._num_items += 1
        return [
            self.write(
                "response.output_item.added", output_index=self._index, item=self._item("in_progress", [])
            ),
            self.write("response.content_part.added", **self._place(), part=shapes.shape_part(kind, "")),
        ]

    def _close(self, status: str) -> list[str]:
        if self._kind is None:
            return []
        kind, part = self._kind, shapes.shape_part(self._kind, self._text, self._logprobs)
        more = {"logprobs": self._logprobs} if kind == "output_text" else {}
        events = [
            self.write(f"{_DELTAS[kind]}.done", **self._place(), text=self._text, **more),
            self.write("response.content_part.done", **self._place(), part=part),
            self.write(
                "response.output_item.done", output_index=self._index, item=self._item(status, [part])
            ),
        ]
        self._kind = None
        return events

    @property
    def _index(self) -> int:
        return self._num_items - 1

    def _place(self) -> dict[str, Any]:
        prefix = "rs" if self._kind == "reasoning_text" else "msg"
        item_id = shapes.name_item(self._name, prefix)
        return {"item_id": item_id, "output_index": self._index, "content_index": 0}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        shape = shapes.shape_reasoning if self._kind == "reasoning_text" else shapes.shape_message
        return shape(self._name, status, content)
