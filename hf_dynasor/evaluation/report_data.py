"""Gathers what a report shows: rows with figures and comparisons, what stopped early and was wrong, questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.report_readings import Readings, list_readings
from hf_dynasor.evaluation.report_replays import ReplayedRun, open_replay, replay_run
from hf_dynasor.evaluation.report_settings import (
    Outcome,
    QuestionText,
    Setting,
    find_runs,
    list_questions,
    make_key,
    merge_settings,
    read_setting,
)
from hf_dynasor.evaluation.report_statistics import (
    Comparison,
    Summary,
    compare,
    find_equal,
    summarise_setting,
)
from hf_dynasor.evaluation.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What tokens cost.

    Args:
        net: For a million net tokens.
        prompt: For a million prompt tokens that were not cached nor shared; 0 leaves prompts out.
        currency: How the amounts are written.
    """

    net: float = 0.6
    prompt: float = 0.0
    currency: str = "$"

    def __post_init__(self) -> None:
        if not (0 <= self.net < float("inf") and 0 <= self.prompt < float("inf")):
            raise ConfigurationError(
                f"Got {self.net = } and {self.prompt = } but expected prices of 0 or more."
            )

    def cost(self, summary: Summary) -> float:
        """Of a thousand questions."""
        return (self.net * summary.net_tokens + self.prompt * summary.prompt_tokens) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A setting with everything that a table says of it.

    Args:
        setting, summary: The setting and its figures.
        against_even: Beside the same budget without a policy.
        at_equal: Beside the cheapest even budget that is as accurate.
        cost: Of a thousand questions.
        is_last: Whether it is the largest budget of its series.
    """

    setting: Setting
    summary: Summary
    against_even: Comparison | None
    at_equal: Comparison | None
    cost: float
    is_last: bool

    @property
    def name(self) -> str:
        """Program, policy and temperature, as lines of a plot are called."""
        key = self.setting.key
        return f"{key.program}, {key.policy}" + (
            "" if key.temperature is None else f", T = {key.temperature:g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyWrong:
    """A question that a policy stopped early and that was answered wrong.

    Args:
        setting: Where.
        outcome: How it went.
        text: The question.
        even: How the same budget without a policy answered it, where that is known.
    """

    setting: Setting
    outcome: Outcome
    text: QuestionText
    even: Outcome | None

    @property
    def is_lost(self) -> bool:
        """Whether the full budget would have been right."""
        return self.even is not None and self.even.is_right


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One model on one data set.

    Args:
        model, dataset: What was asked, about what.
        rows: Every setting.
        early_wrong: Over the rows with a policy at their largest budget.
        readings: For each program that was recorded.
        texts: The questions.
        runs: The folders that all comes from.
    """

    model: str
    dataset: str
    rows: tuple[Row, ...]
    early_wrong: tuple[EarlyWrong, ...]
    readings: tuple[Readings, ...]
    texts: Mapping[str, QuestionText]
    runs: tuple[RunFolder, ...]

    @property
    def last_rows(self) -> tuple[Row, ...]:
        """Each program and policy at its largest budget."""
        return tuple(row for row in self.rows if row.is_last)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A whole report.

    Args:
        groups: One for each model and data set.
        prices: What tokens cost.
        notes: What could not be replayed, and why.
    """

    groups: tuple[Group, ...]
    prices: Prices
    notes: tuple[str, ...] = field(default=())


def gather_report(
    paths: Sequence[str],
    *,
    policies: Sequence[str] | None = None,
    budgets: Sequence[int] | None = None,
    prices: Prices | None = None,
) -> ReportData:
    """Read runs, replay their traces, and work out every figure.

    Args:
        paths: Folders of runs.
        policies: Replayed on traces; by default a few for each program.
        budgets: That are replayed; by default all.
        prices: What tokens cost.

    Raises:
        InputError: There is no run, or one cannot be read.
        ConfigurationError: A policy or an option is unknown.
    """
    prices = prices or Prices()
    notes: list[str] = []
    runs = find_runs(paths)
    replayed = [item for run in runs if (item := open_replay(run, on_skip=notes.append))]
    # Runs as they went stand first: of equal outcomes they are kept.
    settings = [read_setting(run) for run in runs if not run.info.policy.startswith("in_grants")]
    for item in replayed:
        settings += replay_run(item, policies, budgets, on_skip=notes.append)
    if not settings:
        raise InputError("No run has an even budget or a policy that can be replayed: nothing to report.")
    texts = list_questions(runs)
    groups = []
    for group in sorted({setting.key.group for setting in settings}):
        mine = merge_settings(setting for setting in settings if setting.key.group == group)
        of_group = [run for run in runs if _name_group(run) == group]
        readings = [item for item in replayed if _name_group(item.run) == group]
        groups.append(_make_group(group, mine, of_group, readings, texts.get(group, {}), prices))
    return ReportData(groups=tuple(groups), prices=prices, notes=tuple(dict.fromkeys(notes)))


def _make_group(
    group: tuple[str, str],
    settings: Sequence[Setting],
    runs: Sequence[RunFolder],
    replayed: Sequence[ReplayedRun],
    texts: Mapping[str, QuestionText],
    prices: Prices,
) -> Group:
    rows = tuple(_make_row(setting, settings, prices) for setting in settings)
    return Group(
        model=group[0],
        dataset=group[1],
        rows=rows,
        early_wrong=tuple(_list_early_wrong(rows, settings, texts)),
        readings=tuple(list_readings(replayed)),
        texts=texts,
        runs=tuple(runs),
    )


def _make_row(setting: Setting, settings: Sequence[Setting], prices: Prices) -> Row:
    key, summary = setting.key, summarise_setting(setting)
    evens = [item for item in settings if item.key.policy == "even" and _is_akin(item, setting)]
    same = next((item for item in evens if item.key.budget == key.budget), None)
    is_policy = key.policy != "even"
    return Row(
        setting=setting,
        summary=summary,
        against_even=compare(setting, same) if is_policy and same else None,
        at_equal=find_equal(setting, evens) if is_policy else None,
        cost=prices.cost(summary),
        is_last=key.budget == max(item.key.budget for item in settings if item.key.series == key.series),
    )


def _is_akin(one: Setting, other: Setting) -> bool:
    return (one.key.program, one.key.temperature) == (other.key.program, other.key.temperature)


def _list_early_wrong(
    rows: Sequence[Row], settings: Sequence[Setting], texts: Mapping[str, QuestionText]
) -> list[EarlyWrong]:
    found = []
    for row in rows:
        key = row.setting.key
        if not row.is_last or key.policy == "even":
            continue
        full = {
            (item.id, item.seed): item
            for other in settings
            if other.key.policy == "even" and other.key.budget == key.budget and _is_akin(other, row.setting)
            for item in other.outcomes
        }
        found += [
            EarlyWrong(
                setting=row.setting,
                outcome=item,
                text=texts.get(item.id, QuestionText(question="", gold="")),
                even=full.get((item.id, item.seed)),
            )
            for item in row.setting.outcomes
            if item.is_early and not item.is_right
        ]
    return found


def _name_group(run: RunFolder) -> tuple[str, str]:
    return make_key(run).group


__all__ = ["EarlyWrong", "Group", "Prices", "ReportData", "Row", "gather_report"]
