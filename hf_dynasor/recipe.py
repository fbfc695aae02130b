"""`Recipe`: which program, policy and sampling to use for a question, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.program import DEFAULT_INSTRUCTION, ReasoningProgram, derive_seed
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.scheduler import POLICIES

PromptFormat = Literal["chat", "plain"]
PROMPT_FORMATS: tuple[PromptFormat, ...] = ("chat", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to solve a question. Every option is checked when the recipe is made; none is ignored.

    Args:
        program: Name of a program in `hf_dynasor.programs.PROGRAMS`.
        policy: Name of a policy in `hf_dynasor.scheduler.POLICIES`, or a policy.
        budget: The knob's maximum (samples for self-consistency).
        thresholds: What certaindex must exceed to stop; for the policy `static`.
        detect_at: Units after which the policy reads; for `static` and `length`.
        max_tokens: Net tokens at `detect_at` that end the program; for `length`.
        temperature, top_p, top_k, max_new_tokens: Sampling of each path, see `SamplingParams`.
        seed: Makes runs reproducible on engines with per-request seeds; `None` draws afresh.
        logprobs: Ask for log-probabilities, so that the answer-probability signal is known.
        prompt_format: `chat` renders the model's chat template, `plain` sends bare text.
        system: System message; chat only.
        instruction: Appended to the question on a line of its own, unless it says it already; an empty string
            leaves it out.
        enable_thinking: Passed to the chat template; `None` leaves its default.
        answer_format: How answers are found and told apart.

    Examples:
        >>> program, policy = Recipe(budget=10).build("What is 2+2?")
        >>> program.name, policy.name, program.knob.maximum
        ('self_consistency', 'static', 10)
    """

    program: str = "self_consistency"
    policy: str | AllocationPolicy = "static"
    budget: int = 20
    thresholds: Thresholds | None = None
    detect_at: int | None = None
    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int | None = None
    max_new_tokens: int = 512
    seed: int | None = None
    logprobs: bool = False
    prompt_format: PromptFormat = "chat"
    system: str | None = None
    instruction: str = DEFAULT_INSTRUCTION
    enable_thinking: bool | None = None
    answer_format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        if self.program not in PROGRAMS:
            raise name_unknown("program", self.program, PROGRAMS)
        if self.prompt_format not in PROMPT_FORMATS:
            raise name_unknown("prompt format", self.prompt_format, PROMPT_FORMATS)
        if self.prompt_format == "plain" and (self.system is not None or self.enable_thinking is not None):
            raise ConfigurationError(
                "system and enable_thinking belong to chat prompts, but prompt_format is 'plain'."
            )
        self.build("What is 1+1?")

    def build(
        self, question: str, *, program_id: str = "program"
    ) -> tuple[ReasoningProgram, AllocationPolicy]:
        """A fresh program for one question, and its policy.

        Args:
            question: The user's question; not empty.
            program_id: Names the program among those of an engine, and sets its seed apart from theirs.

        Raises:
            InputError: The question is empty.
        """
        program = PROGRAMS[self.program](
            self.build_prompt(question),
            budget=self.budget,
            sampling=self._build_sampling(program_id),
            answer_format=self.answer_format,
            program_id=program_id,
        )
        return program, self.build_policy()

    def build_prompt(self, question: str) -> Prompt:
        """The prompt of every path: the question, then the instruction."""
        if not question.strip():
            raise InputError("Got an empty question but expected some text.")
        text = question.strip()
        if self.instruction and self.instruction not in text:
            text = f"{text}\n{self.instruction}"
        if self.prompt_format == "plain":
            return Prompt.plain(f"{text}\n\n")
        return Prompt.chat(text, system=self.system, enable_thinking=self.enable_thinking)

    def build_policy(self) -> AllocationPolicy:
        """The policy, with the options that it reads; an option that it does not read raises."""
        options: dict[str, Any] = {
            "thresholds": self.thresholds,
            "detect_at": self.detect_at,
            "max_tokens": self.max_tokens,
        }
        given = {name: value for name, value in options.items() if value is not None}
        if not isinstance(self.policy, str):
            _refuse_unread(self.policy.name, given, ())
            return self.policy
        if self.policy not in POLICIES:
            raise name_unknown("policy", self.policy, POLICIES)
        policy = POLICIES[self.policy]
        _refuse_unread(self.policy, given, tuple(item.name for item in fields(policy) if item.name != "name"))
        return policy(**given)

    def _build_sampling(self, program_id: str) -> SamplingParams:
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=derive_seed(self.seed, program_id),
            logprobs=self.logprobs,
        )


def _refuse_unread(policy: str, given: Mapping[str, object], read: tuple[str, ...]) -> None:
    for name, value in given.items():
        if name not in read:
            raise ConfigurationError(
                f"Got {name} = {value} but policy {policy!r} does not read it. "
                f"It reads: {', '.join(read) or 'none of these options'}."
            )
