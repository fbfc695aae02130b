"""How one long chain of thought is asked, guided and ended. Frozen, checked as a whole; knows no request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from hf_dynasor.answers import AnswerFormat, AnswerKey, check_format
from hf_dynasor.answers.elicitation import EXIT_CLOSINGS, GUIDED_PROMPT, PROBE_SUFFIXES
from hf_dynasor.certaindex import Certaindex, agreement, normalised_entropy
from hf_dynasor.certaindex.readings import (
    Need,
    Progress,
    Reading,
    RuleState,
    StoppingRule,
    Verdict,
    Vote,
    check_at_least,
)
from hf_dynasor.core import SamplingParams
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.programs.chain_text import ChainText

ChainMode: TypeAlias = Literal["plain", "guided", "cut", "probed"]
ChainExit: TypeAlias = Literal["probe", "answer"]

DEFAULT_BUDGET = 4096
"""Tokens of a chain whose budget nobody names, where the model's context has room for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly:
    """A rule that reads an answer every `interval` thinking tokens and never stops: certaindex alone decides."""

    interval: int = 32

    @property
    def needs(self) -> frozenset[Need]:
        """An answer."""
        return frozenset({Need.ANSWER})

    @property
    def reads_text(self) -> bool:
        """False: it counts tokens."""
        return False

    def start(self) -> ReadOnlyState:
        """The state of a fresh chain."""
        return ReadOnlyState(self.interval)


class ReadOnlyState:
    """When one chain was last read."""

    def __init__(self, interval: int) -> None:
        self._interval = self._next_at = interval

    def is_due(self, progress: Progress) -> bool:
        """Whether `interval` tokens went by since the last reading."""
        return progress.num_tokens >= self._next_at

    def observe(self, reading: Reading) -> Verdict:
        """Go on."""
        self._next_at = reading.progress.num_tokens + self._interval
        return Verdict(vote=Vote.CONTINUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    r"""How a chain is read.

    Args:
        mode: `"plain"` generates and reads nothing. `"guided"` (QwQ guided, paper §6) makes the chain write the
            final-answer prompt and its answer every `interval` thinking tokens; `"cut"` also stops on those
            answers. `"probed"` asks beside the chain, on the same prefix, and discards what is said.
        rule: When a cut or probed chain stops; without one it is read every `interval` tokens and only a policy
            stops it. Where it is due is the rule's own affair in `"probed"`.
        interval: Thinking tokens between two readings, at least 1; 32 in the paper.
        min_thinking: Thinking tokens before a guided or cut chain is first made to answer, 0 or more: what it writes
            stays in the chain, and a model may believe an answer that came too early. 0 (the paper) begins after one
            interval.
        at_steps: Whether a guided or cut chain is made to answer only where a step has just ended, so that none is
            broken off. A cut chain may then have a rule that reads at the end of steps, whose word it is when.
        suffix: What a probe asks with: a name in `PROBE_SUFFIXES`, or a text that opens a box; `{close}` stands
            for `think_end`.
        guided_prompt: What a guided chain is made to write; it must open a box.
        resume: A text forced after each answer of a guided chain, for models that would otherwise end there.
        max_answer_tokens: Longest answer of one reading.
        window: How many of the last readings the certaindex compares, at least 2.
        delimiter: What ends a step, for rules that read at the end of steps.
        think_end: The text that ends a thought; nothing is read after it.
        exit: What follows a stop: `"probe"` takes the answer that was read; `"answer"` closes the thought and has
            the model write its answer within the budget.
        closing: What closes a thought, a name in `EXIT_CLOSINGS` or a text with `{close}`.
        stops: Whether the rule's word ends the chain; off, it is read where the rule asks and runs to its end, so that
            the record can be replayed under the rule.
        answer_format: How answers are found and told apart.

    Raises:
        ConfigurationError: An unknown name, a value outside its range, a rule where none is read, or a rule that
            this program can never ask.
    """

    mode: ChainMode = "probed"
    rule: StoppingRule | None = None
    interval: int = 32
    min_thinking: int = 0
    at_steps: bool = False
    suffix: str = "final_answer"
    guided_prompt: str = GUIDED_PROMPT
    resume: str = ""
    max_answer_tokens: int = 32
    window: int = 3
    delimiter: str = "\n\n"
    think_end: str = "</think>"
    exit: ChainExit = "probe"
    closing: str = "plain"
    stops: bool = True
    answer_format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("chain mode", self.mode, get_args(ChainMode)),
            ("exit", self.exit, get_args(ChainExit)),
        ):
            if value not in known:
                raise name_unknown(name, value, known)
        check_at_least("interval", self.interval, 1)
        check_at_least("min_thinking", self.min_thinking, 0)
        check_at_least("max_answer_tokens", self.max_answer_tokens, 1)
        check_at_least("window", self.window, 2)
        check_format(self.answer_format)
        self._check_texts()
        self._check_rule()

    @property
    def is_guided(self) -> bool:
        """Whether the chain itself writes the answers that are read."""
        return self.mode in ("guided", "cut")

    @property
    def probe_text(self) -> str:
        """What a probe asks with."""
        return PROBE_SUFFIXES.get(self.suffix, self.suffix).replace("{close}", self.think_end)

    @property
    def probe_room(self) -> int:
        """Most tokens that a probe may add to the chain, its answer included; 0 where none is asked."""
        return len(self.probe_text.encode()) + self.max_answer_tokens if self.mode == "probed" else 0

    def compare(self, keys: Sequence[AnswerKey | None]) -> Certaindex:
        """What the last `window` readings say together: nothing before there are so many.

        Args:
            keys: What each reading says, oldest first; `None` for one without an answer, which agrees with nothing.
        """
        last = keys[-self.window :]
        if len(last) < self.window:
            return Certaindex()
        counts = [last.count(key) for key in dict.fromkeys(last) if key is not None]
        sizes = [*counts, *(1 for key in last if key is None)]
        return Certaindex(entropy=normalised_entropy(sizes), agreement=agreement(sizes) if counts else None)

    def sample_probe(self, num_tokens: int, *, logprobs: bool) -> SamplingParams:
        """How a probe that has said so many tokens goes on: greedily, up to the brace that closes its box."""
        return SamplingParams(
            max_new_tokens=self.max_answer_tokens - num_tokens,
            temperature=0.0,
            stop=("}",),
            logprobs=logprobs or self.reads_probabilities,
        )

    @property
    def closing_text(self) -> str:
        """What closes a thought."""
        return EXIT_CLOSINGS.get(self.closing, self.closing).replace("{close}", self.think_end)

    def start_rule(self) -> RuleState:
        """The rule's state for a fresh chain."""
        return (self.rule or ReadOnly(interval=self.interval)).start()

    @property
    def reads_probabilities(self) -> bool:
        """Whether the rule cannot say anything without the log-probabilities of an answer."""
        return self.rule is not None and Need.LOGPROBS in self.rule.needs

    @property
    def reads_steps(self) -> bool:
        """Whether readings wait for the end of a step."""
        if self.is_guided:
            return self.at_steps
        return self.mode == "probed" and self.rule is not None and self.rule.reads_text

    def may_answer(self, chain: ChainText, state: RuleState) -> bool:
        """Whether a guided or cut chain may be made to answer where it is, once it has thought long enough.

        Args:
            chain: As it stands.
            state: Of its rule, which is asked where it reads at the end of steps.
        """
        if not self.at_steps:
            return True
        is_asked = self.rule is not None and self.rule.reads_text
        return chain.text.endswith(self.delimiter) and (not is_asked or state.is_due(chain.progress))

    def _check_texts(self) -> None:
        for name in ("delimiter", "think_end"):
            if not getattr(self, name):
                raise ConfigurationError(f"Got an empty {name} but expected the text that ends it.")
        if "{" not in self.probe_text:
            raise ConfigurationError(
                f"Got {self.suffix = } but expected one of {', '.join(sorted(PROBE_SUFFIXES))}, or a text that "
                "opens a box, such as 'So the answer is \\boxed{'."
            )
        if not self.guided_prompt.endswith("{"):
            raise ConfigurationError(
                f"Got {self.guided_prompt = } but expected a text that opens a box: '...\\boxed{{'."
            )

    def _check_rule(self) -> None:
        if self.rule is None:
            return
        if self.mode in ("plain", "guided"):
            raise ConfigurationError(
                f"Got a rule with mode {self.mode!r}, which never stops by one. Expected mode 'cut' or 'probed'."
            )
        if Need.ENTROPY in self.rule.needs:
            raise ConfigurationError(
                "Got a rule that reads entropies, which no engine returns. Use AnswerConsistency or BoundaryConfidence."
            )
        if self.mode == "cut" and self.rule.reads_text and not self.at_steps:
            raise ConfigurationError(
                "Got a rule that waits for the end of a step with mode 'cut', which reads every `interval` tokens. "
                "Expected AnswerConsistency, at_steps=True, or mode 'probed'."
            )
        far = Progress(num_tokens=2**40, tail=self.delimiter)
        if self.reads_steps and self.rule.reads_text and not self.rule.start().is_due(far):
            raise ConfigurationError(
                f"Got {self.delimiter = }, at which the rule never reads. Expected the rule's own delimiter."
            )
