"""What can go wrong between here and a server, and whether trying again can help. Knows no request."""

from __future__ import annotations

import email.utils
import json
from typing import Any

import httpx

from hf_dynasor.serving.remote.address import API_KEY_VARIABLE

MAX_QUOTED = 300


def is_transient_status(status: int) -> bool:
    """Whether the same request may work later."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


class RemoteFailure(Exception):
    """An attempt that brought no answer.

    Args:
        message: One or two sentences for people.
        is_transient: Whether the same request may work later.
        is_unreachable: Whether nothing answered at all.
        retry_after_s: When the server wants it again.
        status: The HTTP status, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        is_transient: bool = False,
        is_unreachable: bool = False,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.is_transient = is_transient
        self.is_unreachable = is_unreachable
        self.retry_after_s = retry_after_s
        self.status = status


def broken(message: str) -> RemoteFailure:
    """An answer that began well and broke off."""
    return RemoteFailure(message, is_transient=True)


def read_transport_error(error: httpx.HTTPError | httpx.InvalidURL, url: str) -> RemoteFailure:
    """Why there was no answer.

    Args:
        error: What httpx raised.
        url: The backend's address, for the message.
    """
    words = str(error) or type(error).__name__
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects)):
        return RemoteFailure(f"The backend {url} cannot be asked: {words}.")
    if "SSL" in words or "CERTIFICATE" in words.upper():
        return RemoteFailure(_explain_tls(words, url))
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return RemoteFailure(
            f"The backend {url} does not answer ({words}). Is the server running, and are host and port right?",
            is_transient=True,
            is_unreachable=True,
        )
    if isinstance(error, httpx.TimeoutException):
        return broken(f"The backend {url} fell silent ({type(error).__name__}).")
    return broken(f"The connection to the backend {url} broke: {words}.")


def _explain_tls(words: str, url: str) -> str:
    if "CERTIFICATE" in words.upper():
        return (
            f"The certificate of the backend {url} is not trusted ({words}). Name your authority's file in "
            "SSL_CERT_FILE."
        )
    return f"The backend {url} does not speak TLS ({words}). If it is a plain server, write http:// for https://."


def read_status(status: int, headers: httpx.Headers, body: str, url: str, now: float) -> RemoteFailure:
    """The failure that an HTTP status of 300 or more tells.

    Args:
        status: The status.
        headers: For `Retry-After` and redirects.
        body: The answer's text.
        url: The backend's address.
        now: Unix seconds, for a `Retry-After` that is a date.
    """
    said = quote_error(body)
    if 300 <= status < 400:
        where = headers.get("location", "elsewhere")
        return RemoteFailure(
            f"The backend {url} redirects to {where}. Name that address (with /v1).", status=status
        )
    if status in (401, 403):
        message = (
            f"The backend {url} refuses the API key ({status}): {said} Set {API_KEY_VARIABLE}, or api_key."
        )
        return RemoteFailure(message, status=status)
    is_transient = is_transient_status(status)
    return RemoteFailure(
        f"The backend {url} answered {status}: {said}",
        is_transient=is_transient,
        retry_after_s=read_retry_after(headers.get("retry-after"), now) if is_transient else None,
        status=status,
    )


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait: a number, or a date; nothing where it is neither.

    Examples:
        >>> read_retry_after("3", 0.0), read_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 10.0), read_retry_after("soon", 0.0)
        (3.0, 50.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # not NaN


def quote_error(body: str) -> str:
    """The message in an error's body, in whatever shape, or the beginning of the body itself."""
    text = body.strip()
    if looks_like_html(text):
        return "a page of HTML, which no API sends. Is this the address of the API itself?"
    try:
        found = _find_message(json.loads(text))
    except ValueError:
        found = None
    quoted = found or text or "nothing"
    return quoted if len(quoted) <= MAX_QUOTED else f"{quoted[:MAX_QUOTED]}…"


def looks_like_html(text: str) -> bool:
    """Whether an answer is a page for people."""
    return text.lstrip()[:15].lower().startswith(("<!doctype", "<html"))


def _find_message(row: Any) -> str | None:
    """OpenAI's, vLLM's, FastAPI's and plain shapes."""
    if isinstance(row, str):
        return row
    if isinstance(row, list):
        return "; ".join(text for item in row[:3] if (text := _find_message(item))) or None
    if isinstance(row, dict):
        for name in ("error", "message", "detail", "msg"):
            if name in row and (text := _find_message(row[name])):
                return text
    return None


__all__ = [
    "RemoteFailure",
    "broken",
    "is_transient_status",
    "looks_like_html",
    "quote_error",
    "read_retry_after",
    "read_status",
    "read_transport_error",
]
