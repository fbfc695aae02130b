"""What recorded runs look like once they are read: plain values, checked, in the order of their files.

Three kinds of trace are known. `depth`: one long chain of thought per question, asked for its answer on the way.
`width_depth`: many such chains per question. `samples`: many finished samples per question, each only an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import BrokenLine

TraceKind = Literal["depth", "width_depth", "samples"]

PLACES = ("boundary", "interval")
"""Where a chain is asked: at the end of a piece of reasoning, or every so many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedProbe:
    """One answer that a chain was asked for.

    Args:
        position: Tokens of the chain before it.
        answer: What it answered; `None` where it gave none.
        num_tokens: Tokens that asking cost.
        place: `"boundary"` or `"interval"`.
        logprobs: Natural log-probabilities of the answer's tokens; empty where they were not kept.
        confidence: Geometric mean of their probabilities; `None` where it is not known.
        closes_think: Whether the answer first closed the thought.
        is_hesitant: Whether the probe wrote a word of hesitation.
    """

    position: int
    answer: str | None
    num_tokens: int
    place: str
    logprobs: tuple[float, ...] = ()
    confidence: float | None = None
    closes_think: bool = False
    is_hesitant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthTrace:
    """One question's long chain of thought, run to its end or to the cap.

    Args:
        id: The question; names its run too where several runs asked it.
        run: The run, such as `r1_qwen_7b_math500_seed42`.
        group: The set of questions that it comes from.
        reference: The right answer.
        num_tokens: Tokens of the whole chain with its final answer.
        is_finished: Whether it ended by itself; otherwise the cap cut it off.
        answer: What the whole chain answered.
        is_correct: Whether that was judged right when it was recorded.
        probes: Answers on the way, by position; at one position the boundary's comes first.
        cap: Most tokens that the run allowed; `None` where it was not named and no chain was cut off.
        text: The chain of thought, where it was kept.
    """

    id: str
    run: str
    group: str | None
    reference: str
    num_tokens: int
    is_finished: bool
    answer: str | None
    is_correct: bool
    probes: tuple[RecordedProbe, ...]
    cap: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBranch:
    """One of many chains of thought of a question: its answers at `positions`, and its end."""

    positions: tuple[int, ...]
    probes: tuple[str | None, ...]
    num_tokens: int
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthDepthTrace:
    """One question's many chains of thought; `interval` is the number of tokens between two probes."""

    id: str
    group: str | None
    reference: str
    interval: int
    branches: tuple[RecordedBranch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSample:
    """One finished sample.

    Args:
        answer: What it answered; `None` where no answer was found.
        num_tokens: Its tokens, estimated from its characters where they were not recorded.
        is_correct: The judgement that was recorded with it; `None` where it is to be graded.
    """

    answer: str | None
    num_tokens: int
    is_correct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesTrace:
    """One question's finished samples; `reference` is `None` where every sample carries its judgement."""

    id: str
    group: str | None
    reference: str | None
    samples: tuple[RecordedSample, ...]


Trace: TypeAlias = DepthTrace | WidthDepthTrace | SamplesTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSet:
    """Traces of one kind.

    Args:
        kind: Which kind; it decides which replay and which default policy fit.
        traces: One for each question and run, in the order of the files.
        sources: The runs that they came from.
        broken_lines: Lines that could not be read and were left out.
    """

    kind: TraceKind
    traces: tuple[Trace, ...]
    sources: tuple[str, ...]
    broken_lines: tuple[BrokenLine, ...] = ()

    def depth(self) -> tuple[DepthTrace, ...]:
        """The traces, known to be of depth. Raises `InputError` for another kind."""
        return tuple(trace for trace in self._of("depth") if isinstance(trace, DepthTrace))

    def width_depth(self) -> tuple[WidthDepthTrace, ...]:
        """The traces, known to be of width and depth. Raises `InputError` for another kind."""
        return tuple(trace for trace in self._of("width_depth") if isinstance(trace, WidthDepthTrace))

    def samples(self) -> tuple[SamplesTrace, ...]:
        """The traces, known to be samples. Raises `InputError` for another kind."""
        return tuple(trace for trace in self._of("samples") if isinstance(trace, SamplesTrace))

    def _of(self, kind: str) -> tuple[Trace, ...]:
        if self.kind != kind:
            raise InputError(f"Got traces of kind {self.kind!r} but expected {kind!r}.")
        return self.traces
