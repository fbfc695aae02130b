"""What a recipe's options mean to the program that it names. An option that a program does not read raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias

from hf_dynasor.certaindex.readings import StoppingRule
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.programs.chain_settings import ChainSettings
from hf_dynasor.snapshots import read_signature
from hf_dynasor.stopping.consistency import EFFORTS, AnswerConsistency
from hf_dynasor.stopping.policy import DepthPolicy
from hf_dynasor.stopping.rule_table import RULES, build_rule, rule_to_dict

NO_RULE = "none"
MIN_THINKING = 256
"""Tokens that a guided chain thinks before it is made to answer, unless something else is named: a model that is asked
after 32 may believe its first guess (docs/programs.md)."""
_GIVEN_ANYWAY = frozenset({"self", "prompt", "budget", "sampling", "answer_format", "label", "settings"})
_CHAIN_OPTIONS = tuple(item.name for item in fields(ChainSettings) if item.name != "answer_format")
_UNREAD_BY_MODE: Mapping[str, tuple[str, ...]] = {
    "plain": (
        "interval",
        "min_thinking",
        "at_steps",
        "suffix",
        "guided_prompt",
        "resume",
        "max_answer_tokens",
        "exit",
        "closing",
    ),
    "guided": ("suffix", "exit", "closing"),
    "cut": ("suffix",),
    "probed": ("min_thinking", "at_steps", "guided_prompt", "resume"),
}


def list_options(program: type[ReasoningProgram]) -> tuple[str, ...]:
    """The options that a program reads besides its prompt, budget and sampling.

    Examples:
        >>> from hf_dynasor.programs import PROGRAMS
        >>> "vote" in list_options(PROGRAMS["self_consistency"])
        True
    """
    parameters = read_signature(program).parameters
    own = tuple(name for name in parameters if name not in _GIVEN_ANYWAY)
    return (*_CHAIN_OPTIONS, *own) if "settings" in parameters else own


def default_budget(program: type[ReasoningProgram]) -> int | None:
    """The knob's maximum where nobody names one; `None` where the program takes what the model's context leaves."""
    budget: int | None = read_signature(program).parameters["budget"].default
    return budget


def build_options(
    program: type[ReasoningProgram], given: Mapping[str, Any], *, answer_format: str
) -> dict[str, Any]:
    """The keyword arguments of a program for the options that were given.

    Args:
        program: The program's class.
        given: Options by name, those that were left out not among them.
        answer_format: How answers are found and told apart.

    Raises:
        ConfigurationError: An option that the program does not read, or a value that it refuses.
    """
    known = list_options(program)
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"Got the program option {name!r}, which {program.name} does not read. "
                f"It reads: {', '.join(sorted(known)) or 'none'}."
            )
    if "settings" not in read_signature(program).parameters:
        return {**given, "answer_format": answer_format}
    chain = {name: value for name, value in given.items() if name in _CHAIN_OPTIONS}
    own = {name: value for name, value in given.items() if name not in _CHAIN_OPTIONS}
    return {**own, "settings": build_chain_settings(**chain, answer_format=answer_format)}


RuleOption: TypeAlias = str | StoppingRule | Mapping[str, Any]


def build_chain_settings(*, rule: RuleOption | None = None, **options: Any) -> ChainSettings:
    """How a chain is read, with the rule that fits its mode where none is named, and time to think before it is guided.

    Args:
        rule: A rule; an effort of the paper (`mild` to `crazy`), a name in `RULES`, `none`, or a table with the `name`
            of a rule and its `parameters`. By default `mid` for a probed chain, and 3 equal answers for one that is
            cut.
        options: Fields of `ChainSettings`. `min_thinking` is 256 for a chain that is guided or cut; 0 is the paper's.

    Raises:
        ConfigurationError: An option that a chain of this mode, rule or exit does not read, or a value that it refuses.

    Examples:
        >>> build_chain_settings(mode="cut").rule.window
        3
    """
    mode = options.get("mode", ChainSettings().mode)
    _refuse_unread(mode, options)
    if mode in ("guided", "cut"):
        options.setdefault("min_thinking", MIN_THINKING)
    chosen = _choose_rule(rule, mode, options.get("interval"))
    if isinstance(delimiter := getattr(chosen, "delimiter", None), str):
        options.setdefault("delimiter", delimiter)
    return ChainSettings(rule=chosen, **options)


def _refuse_unread(mode: str, options: Mapping[str, Any]) -> None:
    for name in _UNREAD_BY_MODE.get(mode, ()):
        if name in options:
            raise ConfigurationError(
                f"Got the program option {name!r}, which a chain of mode {mode!r} does not read. Leave it out, or use "
                f"mode {' or '.join(repr(other) for other, left in _UNREAD_BY_MODE.items() if name not in left)}."
            )
    if "closing" in options and options.get("exit", ChainSettings().exit) != "answer":
        raise ConfigurationError(
            "Got the program option 'closing', which is read where the model writes its answer after a stop. Leave it "
            "out, or use exit 'answer'."
        )


def read_depth_policy(path: str) -> dict[str, Any]:
    """The options of a chain of thought that a depth policy file comes to, ready for JSON.

    Args:
        path: A file that `hf-dynasor calibrate` wrote, or `DepthPolicy.save`.

    Raises:
        ConfigurationError: It cannot be read, or its exit is one that a chain does not have.
    """
    policy = DepthPolicy.from_file(path)
    if policy.exit == "stop":
        raise ConfigurationError(
            f"Got the exit 'stop' in {path}, which leaves a chain without an answer. Expected 'answer' or 'paste'."
        )
    options: dict[str, Any] = {"rule": rule_to_dict(policy.rule)}
    if policy.suffix is not None:
        options["suffix"] = policy.suffix
    if policy.exit == "answer":
        return options | {"exit": "answer", "closing": policy.closing}
    return options | {"exit": "probe"}


def _choose_rule(rule: RuleOption | None, mode: str, interval: int | None) -> StoppingRule | None:
    if rule is None:
        if (
            mode == "cut"
        ):  # the chain itself is read every `interval` tokens, and the rule hears of each reading
            return AnswerConsistency(window=3, interval=1)
        return _pace(EFFORTS["mid"], interval) if mode == "probed" else None
    if isinstance(rule, Mapping):
        return build_rule(rule.get("name", ""), rule.get("parameters"))
    if not isinstance(rule, str):
        return rule
    if rule == NO_RULE:
        return None
    if rule in EFFORTS:
        return _pace(EFFORTS[rule], interval)
    if rule not in RULES:
        raise name_unknown("stopping rule", rule, _list_rules())
    chosen = build_rule(rule)
    if interval is not None and mode == "probed" and not isinstance(chosen, AnswerConsistency):
        raise ConfigurationError(
            f"Got {interval = } with the rule {rule!r}, which says itself where it reads. Leave it out, or use a rule "
            "that counts tokens, such as answer_consistency."
        )
    return _pace(chosen, interval)


def _list_rules() -> Iterable[str]:
    return (NO_RULE, *EFFORTS, *RULES)


def _pace(rule: StoppingRule, interval: int | None) -> StoppingRule:
    """The rule read every `interval` tokens, if it counts tokens and an interval was named."""
    if interval is None or not isinstance(rule, AnswerConsistency):
        return rule
    return replace(rule, interval=interval)
