"""Internal chain of thought: one long chain that is read while it thinks (knob: tokens; paper §6).

It runs on any engine that generates: the chain grows in chunks, each of which continues the ids of those before
it, and a reading is one more request on the same prefix. Stopping rules come from outside
(`hf_dynasor.certaindex.readings.StoppingRule`); certaindex compares the last readings.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from hf_dynasor.answers import AnswerKey
from hf_dynasor.certaindex import answer_probability
from hf_dynasor.certaindex.readings import Progress, Reading, TraceEntry, Verdict, Vote
from hf_dynasor.core import (
    Command,
    Completion,
    FinishReason,
    Generate,
    Prompt,
    SamplingParams,
    TokenIds,
    Usage,
)
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Decision, Knob, StopReason, describe_units
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import Flow, ReasoningProgram, derive_seed
from hf_dynasor.programs.chain_settings import DEFAULT_BUDGET, ChainSettings
from hf_dynasor.programs.chain_text import ChainPiece, ChainText, OpenedBox, list_pieces, make_key

CHAIN_SAMPLING = SamplingParams(temperature=0.6)
DEFAULT_SETTINGS = ChainSettings()


class ChainOfThought(ReasoningProgram):
    r"""One chain of thought, read while it thinks.

    Args:
        prompt: What the chain continues.
        budget: Most tokens of the chain, forced ones included. Probe tokens are discarded and not of the chain;
            they count in the usage. By default 4,096, or what the engine's context leaves beside a probe where
            that is less.
        sampling: How it is decoded; its `seed` seeds the program. With `logprobs` the answers' probabilities are
            read too. `max_new_tokens` is not read: the budget is the limit.
        settings: How it is read and when it stops.
        label: What people call it.

    Raises:
        ConfigurationError: Stop strings, which would end a chunk and not the chain.

    Examples:
        >>> from hf_dynasor.drivers import run
        >>> from hf_dynasor.scheduler import Even
        >>> from hf_dynasor.testing import ScriptedEngine
        >>> settings = ChainSettings(mode="plain")
        >>> program = ChainOfThought(Prompt.chat("What is 2+2?"), budget=64, settings=settings)
        >>> answer = run(program, ScriptedEngine(["2+2=4.</think>It is \\boxed{4}."]), Even())
        >>> answer.text, answer.stop_reason.value
        ('4', 'finished')
    """

    name = "chain_of_thought"
    signals = frozenset({"entropy", "agreement", "answer_probability"})

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int | None = None,
        sampling: SamplingParams = CHAIN_SAMPLING,
        settings: ChainSettings = DEFAULT_SETTINGS,
        label: str = "question",
    ) -> None:
        super().__init__(
            label=label, knob=Knob(unit="tokens", maximum=DEFAULT_BUDGET if budget is None else budget)
        )
        if sampling.stop:
            raise ConfigurationError(
                f"Got {sampling.stop = } but a chain ends by itself, by its rule or its budget. Leave it out."
            )
        self.prompt, self.sampling, self.settings = prompt, sampling, settings
        self._is_budget_named = budget is not None
        self.trace_entries: list[TraceEntry] = []
        self.readings: list[Reading] = []
        self.verdict: Verdict | None = None
        self.pieces: list[ChainPiece] = []
        self._chain = ChainText(prompt, settings.think_end)
        self._state = settings.start_rule()
        self._next_at = max(settings.interval, settings.min_thinking)
        self._limit = self._spent = 0
        self._keys: list[AnswerKey | None] = []
        self._ending: FinishReason | None = None
        self._errors: list[str] = []

    @property
    def text(self) -> str:
        """The chain so far, forced texts included."""
        return self._chain.text

    @property
    def is_settled(self) -> bool:
        """Whether its answer is its last: it ended, or its rule was certain."""
        return self._ending is not None

    @property
    def newest_answer(self) -> str | None:
        """What it says now: its final answer once it has one, else what the last reading that found one said."""
        if self._ending is not None and (stated := self._find_stated()) is not None:
            return stated
        return next((item.answer for item in reversed(self.readings) if item.answer is not None), None)

    @property
    def newest_probability(self) -> float | None:
        """Geometric mean probability of the newest answer that was read, where known."""
        newest = next((item for item in reversed(self.readings) if item.answer is not None), None)
        return answer_probability(newest.logprobs) if newest else None

    def fit_room(self, count_room: Callable[[Prompt], int | None]) -> int | None:
        """The room that the prompt leaves, less what a probe needs at the chain's end."""
        room = None if self._is_budget_named else count_room(self.prompt)
        return None if room is None else room - self.settings.probe_room

    def execute(self, grant: int) -> Flow:
        """Let the chain grow by at most `grant` tokens, reading it where it is due."""
        before = self._chain.num_tokens
        self._limit = before + grant
        while self._ending is None:
            if self._is_due():
                yield from self._guide() if self.settings.is_guided else self._probe()
            elif (room := self._count_room()) > 0:
                yield from self._extend(room)
            else:
                break
        self._spent = self._chain.num_tokens - before
        if not self._spent and self._ending is None:  # what is forced needs more room than the grant gives
            self._ending = FinishReason.LENGTH
        if self._ending is not None and self.verdict is None:
            self._keys.append(make_key(self._find_stated(), self.settings.answer_format))

    def count_spent(self, grant: int) -> int:
        """Tokens that the chain grew by."""
        return self._spent

    def find_ending(self) -> Decision | None:
        """An ending of the chain's own, or its rule's."""
        if self._ending is None:
            return None
        if self.verdict is not None:
            words = f"{self.verdict.reason} at {describe_units(self._chain.num_thinking, 'thinking tokens')}"
            return Decision(units=0, stop_reason=StopReason.CERTAIN, explanation=words)
        length = describe_units(self._chain.num_tokens, "tokens")
        words = f"the chain ended ({self._ending.value}) after {length}"
        return Decision(units=0, stop_reason=StopReason.FINISHED, explanation=words)

    def update_certaindex(self) -> None:
        """Compare the last readings; a reading without an answer agrees with nothing."""
        self.certaindex = replace(
            self.settings.compare(self._keys),
            answer_probability=self.newest_probability,
            num_paths=int(self.is_settled),
        )

    def select_answer(self) -> str | None:
        """The answer that the chain states, else the one that was read last."""
        if not self._chain.num_tokens:
            errors = "; ".join(self._errors[:3]) or "no token was granted"
            raise ProgramError(f"No token of {self.label!r} was generated: {errors}.")
        return self._find_stated() or self.newest_answer

    def list_paths(self) -> tuple[PathRecord, ...]:
        """The chain's pieces, in order; each with the answer that was read at its end."""
        read = {entry.num_tokens: entry.answer for entry in self.trace_entries}
        return list_pieces(self.pieces, read, self.select_answer()) if self.pieces else ()

    @property
    def _is_read(self) -> bool:
        return self.settings.mode != "plain" and self.verdict is None and self._chain.is_thinking

    def _is_due(self) -> bool:
        chain = self._chain
        if not self._is_read:
            return False
        if not self.settings.is_guided:
            # A rule may stay due where it read.
            is_read_here = bool(self.readings) and self.readings[-1].progress == chain.progress
            return not is_read_here and self._state.is_due(chain.progress)
        is_place = chain.num_thinking >= self._next_at and self.settings.may_answer(chain, self._state)
        return is_place and self._count_room() > chain.guess_forced(self.settings.guided_prompt)

    def _count_room(self) -> int:
        """Tokens that the chain may still grow by, with what is forced and not yet counted taken off."""
        return self._limit - self._chain.num_tokens - self._chain.num_reserved

    def _extend(self, room: int) -> Flow:
        """One more chunk of at most `room` tokens, up to where a reading may be due."""
        is_near = not self.settings.is_guided or self._chain.num_thinking >= self._next_at
        stop = self.settings.delimiter if self.settings.reads_steps and self._is_read and is_near else ""
        yield from self._continue(f"chunk-{len(self.pieces)}", self._count_until_due(room), stop)

    def _count_until_due(self, room: int) -> int:
        """Tokens to the next place where the rule would read; all that are left where it waits for a step's end."""
        if not self._is_read:
            return room
        now = self._chain.num_thinking
        if self.settings.is_guided:
            return min(room, self._next_at - now) if self._next_at > now else room
        places = (n for n in range(1, room) if self._state.is_due(Progress(num_tokens=now + n)))
        return next(places, room)

    def _continue(
        self, name: str, limit: int, stop: str, *, logprobs: bool = False
    ) -> Generator[tuple[Command, ...], Completion, Completion]:
        """Let the chain grow by at most `limit` tokens, up to a stop string if one is given."""
        sampling = replace(
            self.sampling,
            max_new_tokens=limit,
            seed=derive_seed(self.sampling.seed, "chain", name),
            stop=(stop,) if stop else (),
            logprobs=logprobs or self.sampling.logprobs,
        )
        part = yield (Generate(key=self.key(name), prompt=self._chain.prompt, sampling=sampling),)
        if part.finish_reason is FinishReason.FAILED:
            self._errors.append(part.error or "unknown error")
            self._ending = FinishReason.FAILED
            return part
        self.usage = self.usage + Usage(forced=self._chain.count_forced(part.usage.prompt))
        piece = self._chain.append(part, name, stop=stop)
        self.pieces.append(piece)
        is_chunk_full = part.finish_reason is FinishReason.LENGTH and piece.num_tokens >= limit
        if not is_chunk_full and not (part.finish_reason is FinishReason.STOP and stop and piece.num_tokens):
            self._ending = part.finish_reason
        return part

    def _guide(self) -> Flow:
        """Make the chain write the final-answer prompt and its answer, and read that."""
        settings, box, name = self.settings, OpenedBox(), f"answer-{len(self.readings)}"
        self._chain.force(settings.guided_prompt)
        while self._ending is None and not box.is_answered:
            limit = min(settings.max_answer_tokens - box.num_tokens, self._count_room())
            if limit <= 0:
                break
            piece = f"{name}.{len(self.pieces)}"
            part = yield from self._continue(piece, limit, "}", logprobs=settings.reads_probabilities)
            box.append(part)
            if part.finish_reason is not FinishReason.STOP:
                break
        self._observe(box, 0)
        if self._ending is None and self.verdict is None and settings.resume:
            self._chain.force(settings.resume)
        self._next_at = self._chain.num_thinking + settings.interval

    def _probe(self) -> Flow:
        """Ask beside the chain, on the same prefix; what is said is discarded."""
        settings, box, spent = self.settings, OpenedBox(), 0
        prompt = self._chain.prompt + settings.probe_text
        while not box.is_answered and box.num_tokens < settings.max_answer_tokens:
            sampling = settings.sample_probe(box.num_tokens, logprobs=self.sampling.logprobs)
            name = f"probe-{len(self.readings)}.{box.num_tokens}"
            asked = prompt + TokenIds(ids=box.ids) if box.ids else prompt
            part = yield (Generate(key=self.key(name), prompt=asked, sampling=sampling, is_probe=True),)
            if not spent:  # the suffix is computed for the probe alone: it counts as its tokens
                spent = self._chain.count_beyond(part.usage.prompt)
                self.usage = self.usage + Usage(probe=spent)
            spent += part.usage.probe
            box.append(part)
            if part.finish_reason is not FinishReason.STOP or not part.token_ids:
                break
        self._observe(box, spent)

    def _observe(self, box: OpenedBox, num_probe_tokens: int) -> None:
        """Tell the rule what was read, and end the thought where it says so."""
        reading = box.read(self._chain.progress, self.settings.answer_format)
        self.readings.append(reading)
        self._keys.append(make_key(reading.answer, self.settings.answer_format))
        is_judged = self.settings.mode != "guided"
        verdict = self._state.observe(reading) if is_judged else Verdict(vote=Vote.CONTINUE)
        self.trace_entries.append(
            TraceEntry(
                num_tokens=reading.progress.num_tokens,
                answer=reading.answer,
                verdict=verdict,
                num_probe_tokens=num_probe_tokens,
            )
        )
        if not (verdict.is_stop and self.settings.stops) or self._ending is not None:
            return
        self.verdict = verdict
        if self.settings.exit == "probe":
            self._ending = FinishReason.STOP
        else:
            self._chain.force(self.settings.closing_text)

    def _find_stated(self) -> str | None:
        """The answer that stands in the chain itself; none where a rule cut its thought short."""
        if self.verdict is not None and self.settings.exit == "probe":
            return None
        return self._chain.find_stated(self._ending, self.settings.answer_format)
