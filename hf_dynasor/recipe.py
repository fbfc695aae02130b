"""`Recipe`: which program, policy and sampling to use for a question, checked as a whole before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.certaindex import TABLE_1, Thresholds
from hf_dynasor.core import Chat, Message, Prompt, SamplingParams
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.program import DEFAULT_INSTRUCTION, ReasoningProgram, derive_seed
from hf_dynasor.program_options import build_options, default_budget, read_depth_policy
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.scheduler import POLICIES, list_read_signals, load_policy

UserQuestion: TypeAlias = str | Sequence[Mapping[str, str]]
"""A text, or a conversation as transformers takes it: `[{"role": "user", "content": "..."}, ...]`."""

_SELF_READING = ("chain_of_thought", "chain_consistency")
"""Programs that are read while a grant is spent, so that a policy may grant everything at once."""

PromptFormat = Literal["chat", "plain"]
PROMPT_FORMATS: tuple[PromptFormat, ...] = ("chat", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to solve a question. Every option is checked when the recipe is made; none is ignored.

    Args:
        program: Name of a program in `hf_dynasor.programs.PROGRAMS`.
        policy: Name of a policy in `hf_dynasor.scheduler.POLICIES`, a policy, or a `FILE.json` that
            `hf-dynasor calibrate` wrote, which is read once; one of kind `depth` becomes the stopping rule of a chain
            of thought. By default `static`; `even` for programs that read themselves while they run.
        budget: The knob's maximum (samples, tokens of a chain, ...); by default the program's own.
        preset: A row of the paper's Table 1, such as `sc/gsm8k`, in place of the next two.
        thresholds: What certaindex must exceed to stop; for `static`, `five_step` and `single_step`.
        detect_at: Units after which the policy reads; for `static`, the steps, the curves and `length`.
        max_tokens: Net tokens at `detect_at` that end the program; for `length`.
        temperature, top_p, top_k, max_new_tokens: Sampling of each path, see `SamplingParams`.
        seed: Makes runs reproducible on engines with per-request seeds; `None` draws afresh. The same question
            draws the same samples wherever it stands.
        logprobs: Ask for log-probabilities, so that the answer-probability signal is known; always asked for
            where a threshold needs it.
        prompt_format: `chat` renders the model's chat template, `plain` sends bare text.
        system: System message; chat only.
        instruction: Appended to the question on a line of its own, unless it says it already; an empty string
            leaves it out.
        enable_thinking: Passed to the chat template; `None` leaves its default.
        answer_format: How answers are found and told apart.
        program_options: Further arguments of the program's constructor, such as `{"reward_temperature": 0.1}` for
            `rebase`, and the fields of `ChainSettings` for a chain of thought; one that it does not take raises.

    Examples:
        >>> program, policy = Recipe(budget=10).build("What is 2+2?")
        >>> program.name, policy.name, program.knob.maximum
        ('self_consistency', 'static', 10)
    """

    program: str = "self_consistency"
    policy: str | AllocationPolicy | None = None
    budget: int | None = None
    preset: str | None = None
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
    program_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.program not in PROGRAMS:
            raise name_unknown("program", self.program, PROGRAMS)
        if self.budget is None:
            object.__setattr__(self, "budget", default_budget(PROGRAMS[self.program]))
        if self.policy is None:
            object.__setattr__(self, "policy", self._choose_policy())
        if isinstance(self.policy, str) and self.policy.endswith(".json"):
            self._load_policy(self.policy)
        if self.prompt_format not in PROMPT_FORMATS:
            raise name_unknown("prompt format", self.prompt_format, PROMPT_FORMATS)
        if self.prompt_format == "plain" and (self.system is not None or self.enable_thinking is not None):
            raise ConfigurationError(
                "system and enable_thinking belong to chat prompts, but prompt_format is 'plain'."
            )
        self._refuse_unknown_signals()

    def build(
        self, question: UserQuestion, *, label: str = "question", repeat: int = 0
    ) -> tuple[ReasoningProgram, AllocationPolicy]:
        """A fresh program for one question, and its policy.

        Args:
            question: The user's question, a text or a conversation; not empty.
            label: What the program is called in records and messages.
            repeat: How often the same question came before: sets its seed apart from theirs.

        Raises:
            InputError: The question is empty or no question.
        """
        cls = PROGRAMS[self.program]
        program = cls(
            self.build_prompt(question),
            budget=self.budget,
            sampling=self._build_sampling(question, repeat),
            label=label,
            **build_options(cls, self.program_options, answer_format=self.answer_format),
        )
        return program, self.build_policy()

    def build_prompt(self, question: UserQuestion) -> Prompt:
        """The prompt of every path: the question with the instruction at its end.

        Raises:
            InputError: The question is empty or no question.
            ConfigurationError: A conversation for a plain prompt, or with a system message besides `system`.
        """
        *earlier, last = _read_messages(question)
        text = last.content.strip()
        if self.instruction and self.instruction not in text:
            text = f"{text}\n{self.instruction}"
        if self.prompt_format == "plain":
            if earlier:
                raise ConfigurationError("Got a conversation but prompt_format is 'plain'. Expected a text.")
            return Prompt.plain(f"{text}\n\n")
        if self.system is not None:
            if any(message.role == "system" for message in earlier):
                raise ConfigurationError("Got system and a conversation with a system message. Expected one.")
            earlier.insert(0, Message(role="system", content=self.system))
        messages = (*earlier, Message(role="user", content=text))
        return Prompt((Chat(messages=messages, enable_thinking=self.enable_thinking),))

    def _load_policy(self, path: str) -> None:
        """The file's allocation policy; of a depth policy, its rule becomes the chain's and all tokens are granted."""
        file = load_policy(path)
        if file.kind != "depth":
            object.__setattr__(self, "policy", file.build_policy())
            return
        if self.program not in _SELF_READING:
            raise ConfigurationError(
                f"Got {path}, a policy of kind 'depth', for program {self.program!r}. It says when a single thought ends: "
                f"expected program {' or '.join(map(repr, _SELF_READING))}, or a policy of kind 'width'."
            )
        read = read_depth_policy(path)
        if given := sorted(set(read) & set(self.program_options)):
            raise ConfigurationError(
                f"Got the program option {given[0]!r} and {path}, which says it too. Expected the one or the other."
            )
        object.__setattr__(self, "program_options", {**self.program_options, **read})
        object.__setattr__(self, "policy", "even")

    def _choose_policy(self) -> str:
        is_read_by_policy = any(value is not None for value in (self.preset, self.thresholds, self.detect_at))
        return "even" if self.program in _SELF_READING and not is_read_by_policy else "static"

    def build_policy(self) -> AllocationPolicy:
        """The policy, with the options that it reads; an option that it does not read raises."""
        options: dict[str, Any] = {
            "preset": self.preset,
            "thresholds": self.thresholds,
            "detect_at": self.detect_at,
            "max_tokens": self.max_tokens,
        }
        given = {name: value for name, value in options.items() if value is not None}
        assert self.policy is not None  # chosen when the recipe was made
        if not isinstance(self.policy, str):
            _refuse_unread(self.policy.name, given, ())
            return self.policy
        if self.policy not in POLICIES:
            raise name_unknown("policy", self.policy, POLICIES)
        policy = POLICIES[self.policy]
        read = [item.name for item in fields(policy) if item.name != "name"]
        _refuse_unread(self.policy, given, [*read, "preset"] if "thresholds" in read else read)
        usual = _expand_preset({"preset": PROGRAMS[self.program].preset})
        return policy(
            **{name: value for name, value in usual.items() if name in read} | _expand_preset(given)
        )

    def _refuse_unknown_signals(self) -> None:
        program, policy = self.build("What is 1+1?")
        for signal in sorted(list_read_signals(policy) - program.signals):
            raise ConfigurationError(
                f"Got a threshold on {signal}, which {self.program} never knows. "
                f"It knows: {', '.join(sorted(program.signals))}."
            )

    def _build_sampling(self, question: UserQuestion, repeat: int) -> SamplingParams:
        needed = list_read_signals(self.build_policy())
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=derive_seed(self.seed, _identify(question), repeat),
            logprobs=self.logprobs
            or "answer_probability" in needed
            or self.program_options.get("vote") == "certainty",
        )


def count_repeats(questions: Iterable[UserQuestion]) -> Iterator[tuple[UserQuestion, int]]:
    """Each question with how often it came before, for `Recipe.build`.

    Examples:
        >>> list(count_repeats(["a", "b", "a"]))
        [('a', 0), ('b', 0), ('a', 1)]
    """
    seen: Counter[str] = Counter()
    for question in questions:
        identity = _identify(question)
        yield question, seen[identity]
        seen[identity] += 1


def _identify(question: UserQuestion) -> str:
    return (
        question.strip() if isinstance(question, str) else json.dumps(question, sort_keys=True, default=repr)
    )


def _read_messages(question: UserQuestion) -> list[Message]:
    """The turns of a question, the last of which is the user's and not empty."""
    if isinstance(question, str):
        turns: Sequence[Any] = ({"role": "user", "content": question},)
    elif isinstance(question, Sequence) and question:
        turns = question
    else:
        raise InputError(f"Got the question {question!r} but expected a text or a list of messages.")
    messages = [_read_message(turn) for turn in turns]
    if messages[-1].role != "user":
        raise InputError(f"Got a conversation that ends with {messages[-1].role!r} but expected 'user'.")
    if not messages[-1].content.strip():
        raise InputError("Got an empty question but expected some text.")
    return messages


def _read_message(turn: Any) -> Message:
    if not isinstance(turn, Mapping) or set(turn) != {"role", "content"}:
        raise InputError(f"Got the message {turn!r} but expected {{'role': ..., 'content': ...}}.")
    if turn["role"] not in ("system", "user", "assistant") or not isinstance(turn["content"], str):
        raise InputError(
            f"Got the message {turn!r} but expected a role of system, user or assistant, and a text."
        )
    return Message(role=turn["role"], content=turn["content"])


def _expand_preset(given: dict[str, Any]) -> dict[str, Any]:
    name = given.pop("preset", None)
    if name is None:
        return given
    if name not in TABLE_1:
        raise name_unknown("preset", name, TABLE_1)
    if given:
        raise ConfigurationError(
            f"Got preset {name!r} and also {', '.join(given)}. Expected the one or the other."
        )
    return {"thresholds": TABLE_1[name].thresholds, "detect_at": TABLE_1[name].detect_at}


def _refuse_unread(policy: str, given: Mapping[str, object], read: Sequence[str]) -> None:
    for name, value in given.items():
        if name not in read:
            raise ConfigurationError(
                f"Got {name} = {value} but policy {policy!r} does not read it. "
                f"It reads: {', '.join(read) or 'none of these options'}."
            )
