"""Bounds what a client may send before a request's head ends: httptools alone takes any amount, before any key is read."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
"""As uvicorn's other parser has it; exceeded by at most one read of the socket."""


class BoundedHeadProtocol(HttpToolsProtocol):
    """A connection that is ended where its head, or what follows a body in chunks, does not end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_advanced, self._num_pending = False, 0

    def data_received(self, data: bytes) -> None:
        """Parse what came; count it where it ended no head and was no body."""
        self._has_advanced = False
        super().data_received(data)
        self._num_pending = 0 if self._has_advanced else self._num_pending + len(data)
        if self._num_pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._has_advanced = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body, which is bounded elsewhere."""
        self._has_advanced = True
        super().on_body(body)

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response("The head of the request is too large.")
        else:  # an answer may have begun
            self.transport.close()


__all__ = ["MAX_HEAD_BYTES", "BoundedHeadProtocol"]
