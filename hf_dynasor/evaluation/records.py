"""Traces: what a program generated at its full budget, one line of JSON for each question.

A line holds every completion as the engine delivered it, so that any allocation policy can be replayed on it
offline (`hf_dynasor.evaluation.replay`). The format is described in docs/trace_format.md.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import (
    Chat,
    Completion,
    FinishReason,
    Generate,
    Prompt,
    Request,
    RequestKey,
    TokenIds,
    Usage,
)
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.trace_files import open_text
from hf_dynasor.recipe import Recipe

SCHEMA = "hf_dynasor.trace/1"

NOT_SAMPLING = ("policy", "preset", "thresholds", "detect_at", "max_tokens")
"""Fields of a recipe that a replay chooses anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCompletion:
    """One completion as an engine delivered it, with enough of its request to know it again.

    Args:
        request_id: Names the request within its program.
        kind: `generate`, `probe` or `score`.
        prompt: Fingerprint of what was continued or rated, see `fingerprint`.
        text, token_ids, finish_reason, usage, logprobs, offsets, score, error: As in `Completion`.
    """

    request_id: str
    kind: Literal["generate", "probe", "score"]
    prompt: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[float, ...] | None = None
    offsets: tuple[int, ...] | None = None
    score: float | None = None
    error: str | None = None

    @classmethod
    def from_completion(cls, request: Request, completion: Completion) -> RecordedCompletion:
        """What is kept of a request and its completion."""
        return cls(
            request_id=request.key.request_id,
            kind=name_kind(request),
            prompt=fingerprint(request.prompt),
            **{name: getattr(completion, name) for name in _COPIED},
        )

    def to_completion(self, key: RequestKey) -> Completion:
        """The completion, delivered again under another program's key."""
        return Completion(key=key, **{name: getattr(self, name) for name in _COPIED})

    def to_dict(self) -> dict[str, Any]:
        """The record, ready for JSON; fields that say nothing are left out."""
        row: dict[str, Any] = {"request_id": self.request_id, "kind": self.kind, "prompt": self.prompt}
        row |= {"text": self.text, "token_ids": list(self.token_ids)}
        row |= {"finish_reason": self.finish_reason.value}
        row |= {
            "usage": {name: count for name, count in self.usage.to_dict().items() if name != "net_tokens"}
        }
        optional = {name: getattr(self, name) for name in ("logprobs", "offsets", "score", "error")}
        return row | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> RecordedCompletion:
        """The record that `to_dict` wrote."""
        values = dict(row)
        values["finish_reason"] = FinishReason(values["finish_reason"])
        values["usage"] = Usage(**values["usage"])
        for name in ("token_ids", "logprobs", "offsets"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)


_COPIED = tuple(item.name for item in fields(RecordedCompletion))[3:]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPath:
    """One piece of a program (`hf_dynasor.paths.PathRecord`) without its text, with its grade.

    Args:
        key: Kind and value of the answer's canonical key; `None` where there is no answer.
        is_correct: Whether the answer is right.
    """

    request_id: str
    parent: str | None = None
    unit: int
    answer: str | None = None
    key: tuple[str, str] | None = None
    is_correct: bool = False
    probability: float | None = None
    reward: float | None = None
    num_tokens: int
    finish_reason: str
    is_terminal: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The piece, ready for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> RecordedPath:
        """The piece that `to_dict` wrote."""
        key = row.get("key")
        return cls(**{**row, "key": None if key is None else (str(key[0]), str(key[1]))})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTrace:
    """One question at its full budget.

    Args:
        id, question, reference, group: The question as its file has it.
        model: Name of the engine that ran it.
        recipe: Fields of the `Recipe`, those that choose a policy left out.
        program: Name of the program.
        unit: Unit of its knob.
        budget: Units that were granted.
        answer: What the program ended with.
        is_correct: Whether that is right.
        sequential_tokens: Longest chain of tokens that had to wait for each other.
        completions: Every completion, in the order in which the engine delivered them.
        paths: Every piece that the program knows, in the order of the knob's units.
    """

    id: str
    question: str
    reference: str
    group: str | None = None
    model: str
    recipe: Mapping[str, Any]
    program: str
    unit: str
    budget: int
    answer: str | None
    is_correct: bool
    sequential_tokens: int
    completions: tuple[RecordedCompletion, ...]
    paths: tuple[RecordedPath, ...]

    def to_dict(self) -> dict[str, Any]:
        """The trace, ready for JSON."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        row["recipe"] = dict(self.recipe)
        row["completions"] = [item.to_dict() for item in self.completions]
        row["paths"] = [item.to_dict() for item in self.paths]
        return {"schema": SCHEMA, **row}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProgramTrace:
        """The trace that `to_dict` wrote.

        Raises:
            InputError: The schema is another one, or a field is missing, unknown or of a wrong kind.
        """
        values = dict(row)
        schema = values.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(f"schema is {schema!r}, expected {SCHEMA!r}")
        if "error" in values:
            raise InputError(f"the run of this question failed: {values['error']}")
        if not isinstance(values.get("reference"), str) or not values["reference"].strip():
            raise InputError(f"no label: reference is {values.get('reference')!r}, expected the right answer")
        try:
            values["completions"] = tuple(map(RecordedCompletion.from_dict, values["completions"]))
            values["paths"] = tuple(map(RecordedPath.from_dict, values["paths"]))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"no {SCHEMA} line ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """What trace files held; several files are one set."""

    traces: tuple[ProgramTrace, ...]
    broken_lines: tuple[BrokenLine, ...] = field(default=())


def read_program_traces(paths: Iterable[str | Path]) -> TraceFile:
    """Read traces that `TraceWriter` wrote; a line that cannot be read is reported and left out.

    Raises:
        InputError: A file cannot be read, no line of all can, or two lines are the same question of one run.
    """
    traces: list[ProgramTrace] = []
    broken: list[BrokenLine] = []
    names = [Path(path) for path in paths]
    for path in names:
        for number, line in read_lines(path):
            try:
                traces.append(ProgramTrace.from_dict(parse_object(line)))
            except InputError as error:
                broken.append(BrokenLine(number=number, reason=f"{error} ({path.name})"))
    if not traces:
        first = f"; first: {broken[0]}" if broken else ""
        raise InputError(
            f"Found no trace in {', '.join(map(str, names)) or 'no file'} ({len(broken)} broken lines{first})."
        )
    return TraceFile(traces=tuple(traces), broken_lines=tuple(broken))


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers from 1.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with open_text(path, errors="replace") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, zlib.error) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Cannot read {path}: {words}. Expected a file of traces.") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def parse_object(line: str) -> dict[str, Any]:
    """One JSON object.

    Raises:
        InputError: The line is none, as a line is that was cut off while it was written.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON that can be read ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"a JSON {type(row).__name__}, expected an object")
    return row


def write_recipe(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that say how its requests are made, ready for JSON."""
    return {
        item.name: _write_value(getattr(recipe, item.name))
        for item in fields(recipe)
        if item.name not in NOT_SAMPLING
    }


def name_kind(request: Request) -> Literal["generate", "probe", "score"]:
    """What a request asks for."""
    if not isinstance(request, Generate):
        return "score"
    return "probe" if request.is_probe else "generate"


def fingerprint(prompt: Prompt) -> str:
    """16 hexadecimal digits that tell prompts apart; the same in every process."""
    described = [_describe_segment(segment) for segment in prompt.segments]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _describe_segment(segment: str | TokenIds | Chat) -> Sequence[Any]:
    if isinstance(segment, str):
        return ("text", segment)
    if isinstance(segment, TokenIds):
        return ("ids", segment.ids)
    turns = [(message.role, message.content) for message in segment.messages]
    return ("chat", turns, segment.enable_thinking)


def _write_value(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Thresholds) else value
