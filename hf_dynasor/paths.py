"""What a program generated, piece by piece: the nodes of its tree, for records, drawings and replays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRecord:
    """One finished piece: a whole sample, a step of a tree, or a chunk of a long chain of thought.

    Args:
        request_id: Names it within its program.
        parent: `request_id` of the piece that it continues; `None` where it continues the prompt.
        unit: Which unit of the knob it was spent on, counted from 0.
        text: What was generated.
        answer: The final answer that it states; `None` where it states none.
        probability: Geometric mean probability of the answer's tokens, where known.
        reward: Score of the path up to its end by a reward model, in [0, 1], where known.
        num_tokens: Net tokens of this piece alone, its parents' left out.
        finish_reason: How it ended.
        is_terminal: Whether the path ends here.
    """

    request_id: str
    parent: str | None = None
    unit: int
    text: str
    answer: str | None = None
    probability: float | None = None
    reward: float | None = None
    num_tokens: int
    finish_reason: FinishReason
    is_terminal: bool = True

    def __post_init__(self) -> None:
        if self.unit < 0 or self.num_tokens < 0:
            raise ConfigurationError(
                f"Got {self.unit = } and {self.num_tokens = } but expected 0 or more of each."
            )
        for name in ("probability", "reward"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigurationError(f"Got {name} = {value} but expected a value in [0, 1].")

    def to_dict(self) -> dict[str, Any]:
        """The record, ready for JSON."""
        return asdict(self) | {"finish_reason": self.finish_reason.value}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> PathRecord:
        """The record that `to_dict` wrote."""
        return cls(**row | {"finish_reason": FinishReason(row["finish_reason"])})
