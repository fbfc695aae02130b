"""What a report compares: settings (a program, a policy, a budget) and how each question went under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.run_folder import RESULTS_FILE, Prediction, RunFolder, read_run

MEAN_TOKENS = "mean_of_part"
"""Value of a run's setting `tokens` where only the tokens of many questions together are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One question with one seed under a setting.

    Args:
        id, seed: Which question, and which run of it.
        is_right: The grade of its answer.
        answer: What was answered; `None` where nothing was stated or it is not known.
        net_tokens: Everything generated, forced or read for it.
        prompt_tokens: Of all its requests, those that were cached included.
        sequential_tokens: Longest chain of tokens that had to wait for each other.
        is_early: Whether it was stopped before its budget was spent.
        why: Why it ended, for people.
        certaindex: Signals at its end.
        units: Units of the knob that were spent.
        error: What ended it instead, or `None`.
    """

    id: str
    seed: int | None
    is_right: bool
    answer: str | None = None
    net_tokens: float
    prompt_tokens: int = 0
    sequential_tokens: int = 0
    is_early: bool = False
    why: str = ""
    certaindex: Mapping[str, float] = field(default_factory=dict)
    units: int = 0
    error: str | None = None

    @classmethod
    def from_prediction(cls, item: Prediction) -> Outcome:
        """The outcome of a line of `predictions.jsonl`."""
        return cls(
            id=item.id,
            seed=item.seed,
            is_right=item.is_right,
            answer=item.answer,
            net_tokens=item.net_tokens,
            prompt_tokens=item.usage.prompt,
            sequential_tokens=item.sequential_tokens,
            is_early=item.is_early,
            why=item.explanation or item.stop_reason or "",
            certaindex={name: value for name, value in item.certaindex.items() if name != "num_paths"},
            units=item.units_spent,
            error=item.error,
        )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SettingKey:
    """What names a setting.

    Args:
        model, dataset: What was asked, and about what: settings are compared only within one of both.
        temperature: Of the samples.
        program, policy, budget, unit: As in `RunInfo`.
    """

    model: str
    dataset: str
    temperature: float | None
    program: str
    policy: str
    budget: int
    unit: str

    @property
    def group(self) -> tuple[str, str]:
        """Model and data set."""
        return self.model, self.dataset

    @property
    def series(self) -> tuple[str, str, float | None, str, str]:
        """All but the budget: what a line of a plot joins."""
        return self.model, self.dataset, self.temperature, self.program, self.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A program under a policy at a budget, with its outcomes over questions and seeds.

    Args:
        key: Its name.
        outcomes: At least one; `id` and `seed` together are unique.
        source: Where they come from: the run's folder, and whether they were replayed from its trace.
        has_token_spread: Whether each outcome has tokens of its own; if not, no interval of tokens is given.
    """

    key: SettingKey
    outcomes: tuple[Outcome, ...]
    source: str
    has_token_spread: bool = True

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds, in order of appearance."""
        return tuple(dict.fromkeys(item.seed for item in self.outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionText:
    """What a drill-down shows of a question besides its outcomes."""

    question: str
    gold: str
    group: str | None = None


def find_runs(paths: Iterable[str | Path]) -> list[RunFolder]:
    """The runs of some folders, each a run itself or a folder of runs.

    Raises:
        InputError: A folder holds no run, or one cannot be read.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        inside = [path] if (path / RESULTS_FILE).is_file() else sorted(_list_runs(path))
        if not inside:
            raise InputError(
                f"Found no run in {path}. Expected a folder with {RESULTS_FILE}, or a folder of such folders."
            )
        folders |= dict.fromkeys(inside)
    if not folders:
        raise InputError("Got no run but expected at least one folder.")
    return [read_run(folder) for folder in folders]


def read_setting(run: RunFolder) -> Setting:
    """A run as it went.

    Raises:
        InputError: Two predictions have the same question and seed.
    """
    outcomes = tuple(map(Outcome.from_prediction, run.predictions))
    return Setting(
        key=make_key(run),
        outcomes=check_unique(outcomes, str(run.path)),
        source=f"run {run.path.name}",
        has_token_spread=run.info.settings.get("tokens") != MEAN_TOKENS,
    )


def make_key(run: RunFolder, *, policy: str | None = None, budget: int | None = None) -> SettingKey:
    """The name of a run's setting, or of another policy and budget on its trace."""
    temperature = run.info.settings.get("temperature")
    return SettingKey(
        model=Path(run.info.model).name,
        dataset=Path(run.info.dataset).name,
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        program=run.info.program,
        policy=run.info.policy if policy is None else policy,
        budget=run.info.budget if budget is None else budget,
        unit=run.info.unit,
    )


def merge_settings(settings: Iterable[Setting]) -> list[Setting]:
    """Settings of one name joined: runs with several seeds are one setting with more outcomes.

    Of outcomes for the same question and seed the first is kept, so a live run that stands before its own replay wins;
    but one with tokens of its own wins over one that only shares in a total.
    """
    merged: dict[SettingKey, Setting] = {}
    for setting in sorted(settings, key=lambda setting: not setting.has_token_spread):
        before = merged.get(setting.key)
        merged[setting.key] = setting if before is None else _join(before, setting)
    return sorted(merged.values(), key=lambda setting: _order(setting.key))


def list_questions(runs: Sequence[RunFolder]) -> dict[tuple[str, str], dict[str, QuestionText]]:
    """The texts of each data set's questions, by model and data set, then by id."""
    found: dict[tuple[str, str], dict[str, QuestionText]] = {}
    for run in runs:
        texts = found.setdefault(make_key(run).group, {})
        for item in run.predictions:
            if item.id not in texts or not texts[item.id].question:
                texts[item.id] = QuestionText(question=item.question, gold=item.gold, group=item.group)
    return found


def check_unique(outcomes: tuple[Outcome, ...], where: str) -> tuple[Outcome, ...]:
    """The outcomes, each question once for a seed.

    Raises:
        InputError: One stands twice.
    """
    seen: set[tuple[str, Any]] = set()
    for item in outcomes:
        if (item.id, item.seed) in seen:
            raise InputError(
                f"{where} has question {item.id!r} twice with seed {item.seed}. Expected it once."
            )
        seen.add((item.id, item.seed))
    return outcomes


def _join(first: Setting, second: Setting) -> Setting:
    known = {(item.id, item.seed) for item in first.outcomes}
    new = tuple(item for item in second.outcomes if (item.id, item.seed) not in known)
    if not new:
        return first
    sources = dict.fromkeys([*first.source.split("; "), *second.source.split("; ")])
    return replace(
        first,
        outcomes=first.outcomes + new,
        source="; ".join(sources),
        has_token_spread=first.has_token_spread and second.has_token_spread,
    )


def _order(key: SettingKey) -> tuple[Any, ...]:
    return (
        key.model,
        key.dataset,
        key.temperature or 0.0,
        key.program,
        key.policy != "even",
        key.policy,
        key.budget,
    )


def _list_runs(path: Path) -> list[Path]:
    return [file.parent for file in path.glob(f"*/{RESULTS_FILE}")] if path.is_dir() else []


__all__ = [
    "MEAN_TOKENS",
    "Outcome",
    "QuestionText",
    "Setting",
    "SettingKey",
    "check_unique",
    "find_runs",
    "list_questions",
    "make_key",
    "merge_settings",
    "read_setting",
]
