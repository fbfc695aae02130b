"""How one question of a run went, as a line of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_dynasor.core import Usage
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.evaluate import QuestionResult
from hf_dynasor.evaluation.records import parse_object, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How one question went with one seed: a line of `predictions.jsonl`.

    Args:
        id: Of the question; `id` and `seed` together are unique in a run.
        seed: Seed of the run that the question was part of; `None` where nothing was seeded.
        question: Its text as the data set has it.
        gold: The right answer.
        group: Domain or difficulty, where the data set names one.
        answer: What was answered; `None` where no path stated an answer, or with an error.
        is_right: Its grade. An error is wrong.
        stop_reason: Why the program ended (`certain`, `finished`, `budget`, ...); `None` with an error.
        explanation: The same for people.
        certaindex: The known signals at the end, and `num_paths`.
        grants: One for each grant: `units`, `total`, `certaindex`, `net_tokens` and `sequential_tokens` so far.
        votes: Candidate answers with their weights, heaviest first.
        usage: Tokens of the whole program.
        sequential_tokens: Longest chain of tokens that had to wait for each other.
        budget: The knob's maximum.
        unit: The knob's unit.
        is_early: Whether it was stopped before its budget was spent.
        num_failed: Paths that the engine failed to finish.
        error: What ended the question, or `None`.
    """

    id: str
    seed: int | None
    question: str
    gold: str
    group: str | None = None
    answer: str | None = None
    is_right: bool
    stop_reason: str | None = None
    explanation: str = ""
    certaindex: Mapping[str, float] = field(default_factory=dict)
    grants: tuple[Mapping[str, Any], ...] = ()
    votes: tuple[tuple[str, float], ...] = ()
    usage: Usage
    sequential_tokens: int = 0
    budget: int
    unit: str
    is_early: bool = False
    num_failed: int = 0
    error: str | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """What names it within its run."""
        return self.id, self.seed

    @property
    def net_tokens(self) -> int:
        """Everything generated, forced or read for it beyond its prompts."""
        return self.usage.net_tokens

    @property
    def units_spent(self) -> int:
        """Units of the knob that were granted in total."""
        return int(self.grants[-1]["total"]) if self.grants else 0

    @classmethod
    def from_result(
        cls, result: QuestionResult, *, seed: int | None, budget: int, unit: str, question: str | None = None
    ) -> Prediction:
        """The row of a question that `evaluate` solved.

        Args:
            result: Its outcome.
            seed: Of the recipe.
            budget, unit: Of the program's knob.
            question: The data set's text, where the prompt's differs.
        """
        answer = result.answer
        told: dict[str, Any] = {}
        if answer is not None:
            told = {
                "answer": answer.text,
                "stop_reason": answer.stop_reason.value,
                "explanation": answer.explanation,
                "certaindex": answer.certaindex.to_dict(),
                "grants": tuple(record.to_dict() for record in answer.trace),
                "votes": answer.votes,
                "sequential_tokens": answer.sequential_tokens,
                "is_early": answer.is_early,
                "num_failed": answer.num_failed,
            }
        asked = result.question
        return cls(
            id=asked.id,
            seed=seed,
            question=asked.question if question is None else question,
            gold=asked.answer,
            group=asked.group,
            is_right=result.is_correct,
            usage=result.usage,
            budget=budget,
            unit=unit,
            error=result.error,
            **told,
        )

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        row["certaindex"], row["usage"] = dict(self.certaindex), self.usage.to_dict()
        row["grants"] = [dict(grant) for grant in self.grants]
        row["votes"] = [list(vote) for vote in self.votes]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Prediction:
        """The prediction that `to_dict` wrote.

        Raises:
            InputError: A field is missing, unknown or of a wrong kind.
        """
        values = dict(row)
        try:
            counts = {name: count for name, count in values["usage"].items() if name != "net_tokens"}
            values["usage"] = Usage(**counts)
            values["grants"] = tuple(values["grants"])
            values["votes"] = tuple((str(text), float(weight)) for text, weight in values["votes"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"no prediction ({error!r})") from None


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """All lines of a file of predictions.

    Raises:
        InputError: A line cannot be read.
    """
    rows = []
    for number, line in read_lines(path):
        try:
            rows.append(Prediction.from_dict(parse_object(line)))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}.") from None
    return tuple(rows)
