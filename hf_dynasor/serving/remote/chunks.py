"""From a server's JSON, a chunk of a stream or a whole answer, to one shape. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_dynasor.core import FinishReason, SamplingParams
from hf_dynasor.serving.remote.failures import RemoteFailure, broken, is_transient_status

DONE = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A server's own account.

    Args:
        prompt: Prompt tokens.
        cached: Those of them that it did not compute.
        completion: Tokens generated.
    """

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one event of a stream, or a whole answer, brought.

    Args:
        text: New text.
        token_ids: New tokens, where the server tells them.
        tokens: Their texts, where log-probabilities came along.
        logprobs: Natural-log probabilities of them.
        finish: The server's word for the end.
        tells_stop: Whether the server tells what ended a request.
        stopped_by: What it was: a stop string, a token id, or nothing for the end of a turn.
        counted: The account, where it came along.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    tells_stop: bool = False
    finish: str | None = None
    stopped_by: str | int | None = None
    counted: Counted | None = None


def read_chunk(data: str) -> Chunk:
    """One event's data, or a whole answer.

    Raises:
        RemoteFailure: It is no JSON (cut, most likely), not of OpenAI's shape, or an error.
    """
    try:
        row = json.loads(data)
    except ValueError:
        raise broken(f"The answer broke off in the middle: {data[-60:]!r}.") from None
    if not isinstance(row, dict):
        raise broken(f"Got {data[:60]!r} from the server but expected an object.")
    if row.get("error"):
        raise _read_error(row["error"])
    try:
        return _read_row(row)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise broken(f"The answer is not of OpenAI's shape ({type(error).__name__}: {error}).") from None


def _read_row(row: dict[str, Any]) -> Chunk:
    counted = _read_usage(row.get("usage"))
    choices = row.get("choices") or []
    if not choices:
        return Chunk(counted=counted)
    choice = choices[0]
    said = choice.get("delta") or choice.get("message")
    text = choice.get("text") if said is None else _join_parts(said)
    tokens, logprobs = _read_logprobs(choice.get("logprobs"))
    stopped_by = choice.get("stop_reason", choice.get("matched_stop"))
    return Chunk(
        text=text or "",
        token_ids=tuple(int(token_id) for token_id in choice.get("token_ids") or ()),
        tokens=tokens,
        logprobs=logprobs,
        tells_stop="stop_reason" in choice or "matched_stop" in choice,
        finish=choice.get("finish_reason"),
        stopped_by=stopped_by if isinstance(stopped_by, (str, int)) else None,
        counted=counted,
    )


def _join_parts(said: Mapping[str, Any]) -> str:
    """Thinking that a server told apart stands before the answer, as the model wrote it."""
    return (said.get("reasoning_content") or said.get("reasoning") or "") + (said.get("content") or "")


def _read_usage(usage: Any) -> Counted | None:
    if not isinstance(usage, dict) or usage.get("completion_tokens") is None:
        return None
    prompt = int(usage.get("prompt_tokens") or 0)
    cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    return Counted(prompt=prompt, cached=min(cached, prompt), completion=int(usage["completion_tokens"]))


def _read_logprobs(found: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Of completions (lists side by side) or of chats (a list of tokens)."""
    if not found:
        return (), ()
    if content := found.get("content"):
        return (
            tuple(str(entry["token"]) for entry in content),
            tuple(_finite(entry["logprob"]) for entry in content),
        )
    tokens = tuple(str(token) for token in found.get("tokens") or ())
    logprobs = tuple(_finite(value) for value in found.get("token_logprobs") or ())
    if len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
    return tokens, logprobs


def _finite(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else -1e9


def _read_error(error: Any) -> RemoteFailure:
    """An error that came in place of an answer, the status already sent."""
    if not isinstance(error, dict):
        return RemoteFailure(f"The server broke the answer off: {error}", is_transient=True)
    codes = [str(error.get(name)) for name in ("code", "status")]
    status = next((int(code) for code in codes if code.isdecimal() and 400 <= int(code) < 600), None)
    is_request = str(error.get("type", "")).lower() in ("invalid_request_error", "badrequesterror")
    is_transient = not is_request and (status is None or is_transient_status(status))
    words = error.get("message") or error
    return RemoteFailure(
        f"The server broke the answer off: {words}", is_transient=is_transient, status=status
    )


def find_reason(
    chunk: Chunk, sampling: SamplingParams, last_id: int | None, eos_token_ids: frozenset[int]
) -> FinishReason:
    """Why a request ended, in our words.

    OpenAI's `stop` means both the end of a turn and a stop string. Servers tell them apart by `stop_reason` (vLLM) or
    `matched_stop` (SGLang); else the last token does; else a request that asked for no stop ended by itself.

    Args:
        chunk: The one with the server's word.
        sampling: What was asked for.
        last_id: The last token, where known.
        eos_token_ids: What ends a turn, where known.

    Raises:
        RemoteFailure: The server gave the request up.
    """
    if chunk.finish == "length":
        return FinishReason.LENGTH
    if chunk.finish in ("abort", "error"):
        raise broken(f"The server gave the request up ({chunk.finish}).")
    asks_stop = bool(sampling.stop or sampling.stop_token_ids)
    if not asks_stop or chunk.finish in ("eos", "eos_token"):
        return FinishReason.EOS
    if chunk.tells_stop:
        is_asked = chunk.stopped_by in (*sampling.stop, *sampling.stop_token_ids)
        return FinishReason.STOP if is_asked else FinishReason.EOS
    if last_id is not None and eos_token_ids:
        is_end = last_id in eos_token_ids and last_id not in sampling.stop_token_ids
        return FinishReason.EOS if is_end else FinishReason.STOP
    return FinishReason.STOP
