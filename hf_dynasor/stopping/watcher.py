"""Stopping on a stream: the same rules on an engine's requests, for continuous batching and remote servers.

Continuous batching never looks at stopping criteria. So a watch follows the deltas of a request, has it probed
beside its own stream, cancels it once the rule is certain, and continues it from its exit, as one completion. It
does no I/O: it is told events and gives commands back; `run_watches` is the driver that blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from hf_dynasor.answers import AnswerFormat, extract_answer
from hf_dynasor.core import (
    Cancel,
    Command,
    Completion,
    Event,
    FinishReason,
    Generate,
    Prompt,
    RequestKey,
    SamplingParams,
    TokenDelta,
    TokenIds,
    Usage,
)
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.stopping.exits import resolve_closing, write_exit
from hf_dynasor.stopping.markers import RowThinking, find_think_markers
from hf_dynasor.stopping.policy import DepthPolicy, ExitStyle, RuleLike, resolve_policy
from hf_dynasor.stopping.readings import (
    Need,
    Progress,
    Reading,
    TraceEntry,
    Verdict,
    check_at_least,
)
from hf_dynasor.stopping.texts import PROBE_SUFFIXES, find_answer_end, is_closed_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How streams are watched; one for many watches.

    Args:
        tokenizer: The model's tokenizer.
        rule: When a thought ends: a rule, an effort's name or a policy file. By default what was calibrated for the
            model, see `find_policy`, else `DEFAULT_RULE`. It may need answers, not entropies: no engine gives those.
        eos_token_ids: Ids that end a turn.
        markers: Texts that open and close the thinking, where they cannot be found.
        exit: What follows a stop, see `EarlyExit`; `None` takes the policy's.
        suffix: What a probe asks with: a name in `PROBE_SUFFIXES` or a text that opens a box; `None` takes the
            policy's.
        closing: What closes a thought, a name in `EXIT_CLOSINGS` or a text with `{close}`; `None` takes the policy's.
        max_answer_tokens: Longest answer of a probe.
        logprobs: Ask for the probabilities of a probe's answer; `None` does so where the rule reads them.
        format: How answers are found.
        policy: What all of this comes to; not an argument.

    Raises:
        ConfigurationError: No tokenizer, unknown markers or exit, a rule that reads entropies, a policy that cannot
            be used, a limit below 1.
    """

    tokenizer: Any
    rule: RuleLike | None = None
    eos_token_ids: frozenset[int] = frozenset()
    markers: tuple[str, str] | None = None
    exit: ExitStyle | None = None
    suffix: str | None = None
    closing: str | None = None
    max_answer_tokens: int = 32
    logprobs: bool | None = None
    format: AnswerFormat = "auto"
    policy: DepthPolicy = field(init=False)

    def __post_init__(self) -> None:
        check_at_least("max_answer_tokens", self.max_answer_tokens, 1)
        find_think_markers(self.tokenizer, markers=self.markers)  # checks both
        if self.exit is not None and self.exit not in get_args(ExitStyle):
            raise name_unknown("exit", self.exit, get_args(ExitStyle))
        found = resolve_policy(self.rule, self.tokenizer)
        if Need.ENTROPY in found.rule.needs:
            raise ConfigurationError(
                "Got a rule that reads entropies, which no engine returns. Use AnswerConsistency or BoundaryConfidence."
            )
        suffix, closing = self.suffix or found.suffix or "final_answer", self.closing or found.closing
        resolved = replace(
            found,
            exit=self.exit or found.exit,
            suffix=PROBE_SUFFIXES.get(suffix, suffix),
            closing=resolve_closing(closing),
        )
        object.__setattr__(self, "policy", resolved)

    @property
    def wants_logprobs(self) -> bool:
        """Whether probes ask for the probabilities of what they write."""
        return Need.LOGPROBS in self.policy.rule.needs if self.logprobs is None else self.logprobs


class StreamWatch:
    """Watches one request from its prompt to its one completion.

    Args:
        settings: How it is watched.
        key: The request's name; what the watch sends besides has names made from it.
        prompt_ids: The prompt, as ids.
        sampling: How the request is decoded. `max_new_tokens` counts everything that stays in the text.

    Raises:
        ConfigurationError: Log-probabilities asked for: forced tokens have none.
    """

    def __init__(
        self, settings: WatchSettings, key: RequestKey, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        if sampling.logprobs:
            raise ConfigurationError(
                "Got sampling.logprobs=True but the tokens of an exit are forced and have none. Leave it out."
            )
        self._settings, self._sampling = settings, sampling
        self._markers = find_think_markers(settings.tokenizer, markers=settings.markers)
        self._thinking = RowThinking(settings.tokenizer, self._markers, prompt_ids)
        self._state = settings.policy.rule.start()
        self._prompt_ids, self._ids = tuple(prompt_ids), list[int]()
        self._head = ""
        self._main, self._key = key, key
        self._probe: RequestKey | None = None
        self._probe_ids: list[int] = []
        self._asked_at = Progress(num_tokens=0)
        self._said: str | None = None
        self._was_thinking = True
        self._usage = Usage()
        self.verdict: Verdict | None = None
        self.trace: list[TraceEntry] = []
        self.completion: Completion | None = None

    @property
    def answer(self) -> str | None:
        """What the completion says; None before it is there, or where it says nothing."""
        if self.completion is None:
            return None
        return extract_answer(self.completion.text, format=self._settings.format)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Everything that stays in the text so far, an exit's forced tokens included."""
        return tuple(self._ids)

    def start(self) -> tuple[Command, ...]:
        """The request itself, streamed."""
        return (self._ask(self._main, self._prompt_ids, self._sampling),)

    def receive(self, event: Event) -> tuple[Command, ...]:
        """Take in an event of one of its requests; returns what is to be sent now."""
        if self.completion is not None:
            return ()
        if isinstance(event, TokenDelta):
            return self._follow(event) if event.key == self._main else self._follow_probe(event)
        self._usage += event.usage
        if event.key == self._probe:
            return self._end_probe(event)
        return self._end_main(event) if event.key == self._main else ()

    def _follow(self, delta: TokenDelta) -> tuple[Command, ...]:
        if self.verdict is not None:
            return ()  # the exit's own tokens, or what came before the cancellation arrived
        for token_id in delta.token_ids:
            self._ids.append(token_id)
            self._thinking.append(token_id)
        if self._probe is not None or not self._thinking.is_thinking or not self._state.is_due(self._place()):
            return ()
        if not self._settings.policy.rule.needs:
            return self._judge(Reading(progress=self._place()), 0)
        self._asked_at = self._place()
        request_id = f"{self._key.request_id}/probe-{len(self.trace)}"
        self._probe, self._probe_ids = replace(self._key, request_id=request_id), []
        settings = self._settings
        suffix = (settings.policy.suffix or "").replace(
            "{close}", self._markers.close_text if self._markers else ""
        )
        asked = (*self._prompt_ids, *self._ids, *_encode(settings.tokenizer, suffix))
        sampling = SamplingParams(
            max_new_tokens=settings.max_answer_tokens, temperature=0.0, logprobs=settings.wants_logprobs
        )
        return (self._ask(self._probe, asked, sampling, is_probe=True),)

    def _follow_probe(self, delta: TokenDelta) -> tuple[Command, ...]:
        """A probe ends with its answer, not after a fixed number of tokens."""
        if delta.key != self._probe:
            return ()
        self._probe_ids += delta.token_ids
        text = str(self._settings.tokenizer.decode(self._probe_ids))
        return (Cancel(keys=(delta.key,)),) if find_answer_end(text) is not None else ()

    def _end_probe(self, probe: Completion) -> tuple[Command, ...]:
        self._probe = None
        if self.verdict is not None or not self._thinking.is_thinking:
            return ()
        ids = [token_id for token_id in probe.token_ids if token_id not in self._settings.eos_token_ids]
        text = str(self._settings.tokenizer.decode(ids)) if ids else probe.text
        end = find_answer_end(text)
        text = text if end is None else text[: end + 1]
        reading = Reading(
            progress=self._asked_at,  # the stream has gone on since
            answer=extract_answer(text, format=self._settings.format, allow_unclosed=True) if text else None,
            text=text,
            is_closed=is_closed_answer(text),
            logprobs=probe.logprobs or (),
        )
        return self._judge(reading, probe.usage.probe)

    def _judge(self, reading: Reading, num_probe_tokens: int) -> tuple[Command, ...]:
        verdict = self._state.observe(reading)
        self._said = reading.answer or self._said
        self.trace.append(
            TraceEntry(
                num_tokens=reading.progress.num_tokens,
                answer=reading.answer,
                verdict=verdict,
                num_probe_tokens=num_probe_tokens,
            )
        )
        if not verdict.is_stop:
            return ()
        self.verdict = verdict
        return (Cancel(keys=(self._main,)),)

    def _end_main(self, part: Completion) -> tuple[Command, ...]:
        """The request has ended, or it was cancelled and its exit begins, or its exit has ended."""
        is_exit = self._main != self._key
        self._ids = [*self._ids, *part.token_ids] if is_exit else list(part.token_ids)
        if is_exit or self.verdict is None or part.finish_reason is not FinishReason.CANCELLED:
            return self._finish(part.text, part.finish_reason, part.error)
        style = self._settings.policy.exit
        left = self._sampling.max_new_tokens - len(self._ids)
        forced = self._write_exit() if style != "stop" else ()
        is_cut = len(forced) > left
        self._ids += forced[:left]
        self._usage += Usage(forced=min(left, len(forced)))
        self._head = str(self._settings.tokenizer.decode(self._ids)) if self._ids else ""
        left -= min(left, len(forced))
        if style == "stop" or (self._is_pasting and not is_cut):
            return self._finish("", FinishReason.STOP)
        if not left:
            return self._finish("", FinishReason.LENGTH)
        self._main = replace(self._key, request_id=f"{self._key.request_id}/exit")
        sampling = replace(self._sampling, max_new_tokens=left)
        return (self._ask(self._main, (*self._prompt_ids, *self._ids), sampling),)

    @property
    def _is_pasting(self) -> bool:
        """Whether the probe's answer is written for the model. A thought that was closed meanwhile is left to it."""
        return self._settings.policy.exit == "paste" and self._said is not None and self._was_thinking

    def _write_exit(self) -> tuple[int, ...]:
        """What closes the thought; nothing where the model closed it before the cancellation arrived."""
        settings = self._settings
        thinking = RowThinking(settings.tokenizer, self._markers, self._prompt_ids)
        for token_id in self._ids:
            thinking.append(token_id)
        self._was_thinking = thinking.is_thinking
        if not thinking.is_thinking:
            return ()
        answer = self._said if settings.policy.exit == "paste" else None
        return write_exit(
            settings.tokenizer, self._markers, thinking.read_tail(), settings.policy.closing, answer=answer
        )

    def _finish(self, text: str, reason: FinishReason, error: str | None = None) -> tuple[Command, ...]:
        self.completion = Completion(
            key=self._key,
            text=self._head + text,
            token_ids=tuple(self._ids),
            finish_reason=reason,
            usage=self._usage,
            error=error,
        )
        return (Cancel(keys=(self._probe,)),) if self._probe is not None else ()

    def _ask(
        self, key: RequestKey, ids: Sequence[int], sampling: SamplingParams, *, is_probe: bool = False
    ) -> Generate:
        prompt = Prompt((TokenIds(ids=tuple(ids)),))
        return Generate(key=key, prompt=prompt, sampling=sampling, stream=True, is_probe=is_probe)

    def _place(self) -> Progress:
        tail = self._thinking.read_tail() if self._settings.policy.rule.reads_text else ""
        return Progress(num_tokens=self._thinking.num_tokens, tail=tail)


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(int(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False))
