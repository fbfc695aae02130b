"""What goes wrong over HTTP, in OpenAI's shape: one tree from our errors to statuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeoutError,
    HFDynasorError,
    InputError,
    UnsupportedError,
)


@dataclass(slots=True, kw_only=True)
class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        message: One sentence or two for people.
        type: OpenAI's kind of error, such as `invalid_request_error`.
        code: A word for programs.
        param: The field that is wrong, if one is.
        headers: Such as `Retry-After`.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """The body."""
        param = _escape(self.param) if self.param is not None else None
        return {
            "error": {"message": _escape(self.message), "type": self.type, "param": param, "code": self.code}
        }


def _escape(text: str) -> str:
    """Half characters (lone surrogates), which a client may send as a field's name, have no bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the field."""
    return ApiError(status=400, message=message, param=param, code=code)


def not_found(message: str, *, param: str | None = None, code: str = "not_found") -> ApiError:
    """A 404."""
    return ApiError(status=404, message=message, param=param, code=code)


def overloaded(message: str, *, retry_after_s: int) -> ApiError:
    """A 429 that says when to come again; OpenAI's clients do by themselves."""
    return ApiError(
        status=429,
        message=message,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(max(1, retry_after_s))},
    )


def unavailable(message: str, *, retry_after_s: int = 1) -> ApiError:
    """A 503 for a server that loads, drains, or has lost its engine."""
    return ApiError(
        status=503,
        message=message,
        type="server_error",
        code="unavailable",
        headers={"Retry-After": str(max(1, retry_after_s))},
    )


def timed_out(seconds: float) -> ApiError:
    """A 504: the request took longer than the server allows."""
    return ApiError(
        status=504,
        message=f"The request took longer than {seconds:g} s and was cancelled.",
        type="server_error",
        code="timeout",
    )


def translate(error: HFDynasorError) -> ApiError:
    """Our own errors as answers: the caller's mistakes are 400, a dead engine 503, the rest 500."""
    if isinstance(error, EngineTimeoutError):
        return ApiError(status=504, message=str(error), type="server_error", code="timeout")
    if isinstance(error, EngineError):
        return unavailable(str(error))
    if isinstance(error, (ConfigurationError, InputError)):
        return bad_request(str(error), code="invalid_value")
    if isinstance(error, UnsupportedError):
        return bad_request(str(error), code="unsupported")
    return ApiError(status=500, message=str(error), type="server_error", code="internal_error")
