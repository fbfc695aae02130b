"""Server-sent events out of bytes, however the network cuts them. Pure; knows no HTTP and no JSON."""

from __future__ import annotations

import codecs

MAX_EVENT_CHARACTERS = 16 * 2**20
"""Characters of one event beyond which a stream is taken for something else."""


class EventParser:
    """Collects the data of events as bytes come in.

    Lines end in LF, CR LF or CR; comments and other fields than `data` are passed over; a byte order mark at the
    beginning too. What is left when the stream ends without a blank line is no event: it may have been cut.

    Examples:
        >>> parser = EventParser()
        >>> parser.push(b"data: a"), parser.push(b"\\n\\nda"), parser.push(b"ta: b\\r\\n\\r\\n")
        ([], ['a'], ['b'])
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line: list[str] = []
        self._data: list[str] = []
        self._size = 0
        self._ends_in_return = False

    @property
    def is_overlong(self) -> bool:
        """Whether the event that is being read is longer than any server's."""
        return self._size > MAX_EVENT_CHARACTERS

    @property
    def has_rest(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._data or "".join(self._line).strip())

    def push(self, data: bytes) -> list[str]:
        """Take bytes; the data of the events that they complete."""
        events: list[str] = []
        text = self._decoder.decode(data)
        if not text:
            return events
        if self._ends_in_return:  # a line feed now is the second half of a CR LF
            text = text.removeprefix("\n")
        self._ends_in_return = text.endswith("\r")
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._line.append(line)
            self._end_line("".join(self._line), events)
            self._line = []
        if rest:
            self._line.append(rest)
            self._size += len(rest)
        return events

    def _end_line(self, line: str, events: list[str]) -> None:
        if not line:
            if self._data:
                events.append("\n".join(self._data))
            self._data, self._size = [], 0
        elif line.startswith("data:"):
            value = line[5:].removeprefix(" ")
            self._data.append(value)
            self._size += len(value)
