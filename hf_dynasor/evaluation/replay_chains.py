"""Replays stopping rules on recorded chains of thought of our own: the program itself runs again, from its record.

A chain is recorded with a rule that is asked and not obeyed (`stops: false`), so it ran to its end and was read
wherever that rule reads. Rules that read at the same places can be replayed on it: the same rule with another
threshold. One that asks elsewhere is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hf_dynasor.drivers import run
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replay import ReplayEngine, grade, read_recipe
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.grants import Answer
from hf_dynasor.program_options import build_chain_settings
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even
from hf_dynasor.stopping.rule_table import RULES, build_rule, rule_to_dict

CHAIN = "chain_of_thought"

_AFTER_A_STOP = ("exit", "closing")
"""What the model would have written after a stop is in no record: a replay takes the answer that was read."""


def run_rules_to_end(recipe: Recipe) -> Recipe:
    """The recipe whose record any threshold of its rule can be replayed on; others than probed chains stay as they are."""
    options = dict(recipe.program_options)
    if recipe.program != CHAIN or options.get("mode", "probed") != "probed":
        return recipe
    rule = build_chain_settings(**options).rule
    if rule is None or type(rule) not in RULES.values():
        return recipe
    return replace(recipe, program_options={**options, "rule": rule_to_dict(rule), "stops": False})


def read_recorded_rule(traces: Sequence[ProgramTrace]) -> dict[str, Any] | None:
    """Name and parameters of the rule that all traces were read by; `None` where they have none in common."""
    options = [trace.recipe.get("program_options") or {} for trace in traces]
    if not options or any(item != options[0] for item in options) or options[0].get("stops", True):
        return None
    rule = options[0].get("rule")
    return dict(rule) if traces[0].program == CHAIN and isinstance(rule, Mapping) else None


def fill_parameters(
    name: str, parameters: Mapping[str, Any], traces: Sequence[ProgramTrace]
) -> dict[str, Any]:
    """The parameters of a rule; those that are not named are the recorded rule's, if it is the same rule.

    Raises:
        ConfigurationError: An unknown rule or parameter.
    """
    recorded = read_recorded_rule(traces) or {}
    usual = dict(recorded["parameters"]) if recorded.get("name") == name else {}
    filled = usual | dict(parameters)
    build_rule(name, filled)
    return filled


def read_cap(trace: ProgramTrace) -> int:
    """Most tokens that a recorded chain was allowed; it may have ended before them."""
    return int(trace.recipe.get("budget") or trace.budget)


def replay_chains(
    traces: Sequence[ProgramTrace], name: str, parameters: Mapping[str, Any], *, budget: int | None = None
) -> list[ReplayedQuestion]:
    """One row for each recorded chain, under a stopping rule, beside the full run without probes.

    Args:
        traces: Recorded chains of thought.
        name: Of the rule, in `RULES`.
        parameters: Its options; those left out are the recorded rule's.
        budget: Most tokens of a chain; by default what was recorded.

    Raises:
        ConfigurationError: An unknown rule or option.
        InputError: The rule asks where the record was not asked.
    """
    rule = {"name": name, "parameters": fill_parameters(name, parameters, traces)}
    return [_replay(trace, rule, budget or read_cap(trace)) for trace in traces]


def _replay(trace: ProgramTrace, rule: Mapping[str, Any], budget: int) -> ReplayedQuestion:
    answer = _run(trace, budget, rule=rule, stops=True)
    full = _run(trace, budget, stops=False)
    baseline = full.usage.net_tokens - full.usage.probe
    return ReplayedQuestion(
        id=trace.id,
        group=trace.group,
        answer=answer.text,
        is_correct=grade(trace, answer.text),
        baseline_is_correct=grade(trace, full.text),
        net_tokens=answer.usage.net_tokens,
        baseline_tokens=baseline,
        # One chain: an answer that is asked for holds it up.
        sequential_tokens=answer.usage.net_tokens,
        baseline_sequential_tokens=baseline,
        is_early=answer.stop_reason.value == "certain",
        stopped_at=answer.units_spent,
        explanation=answer.explanation,
    )


def _run(trace: ProgramTrace, budget: int, **changes: Any) -> Answer:
    recipe = read_recipe(trace, Even(), budget)
    options = {name: value for name, value in recipe.program_options.items() if name not in _AFTER_A_STOP}
    program, policy = replace(recipe, program_options=options | changes).build(trace.question, label=trace.id)
    completions = {item.request_id: item for item in trace.completions}
    pieces = [item.request_id for item in trace.completions if item.kind == "generate"]
    return run(program, ReplayEngine(completions, last=pieces[-1] if pieces else None), policy)
