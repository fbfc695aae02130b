"""What a program knows about its own answer: named signals, and the thresholds that make it "certain"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from hf_dynasor.errors import ConfigurationError

SIGNAL_NAMES = ("entropy", "agreement", "answer_probability", "reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certaindex:
    """A reading: how certain a program is after what it has seen (paper §3).

    Args:
        entropy: Normalised entropy H̃ of the answers' groups.
        agreement: Share of the largest group.
        answer_probability: Mean over the paths of the majority of their answer's probability.
        reward: Reward of the terminal states, mean or max as the program says.
        num_paths: How many finished paths the reading rests on.

    A signal that is `None` is not known (one path has no entropy) and never counts as certain.
    """

    entropy: float | None = None
    agreement: float | None = None
    answer_probability: float | None = None
    reward: float | None = None
    num_paths: int = 0

    def __post_init__(self) -> None:
        for name in SIGNAL_NAMES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigurationError(f"Got signal {name} = {value} but expected a value in [0, 1].")
        if self.num_paths < 0:
            raise ConfigurationError(f"Got {self.num_paths = } but expected 0 or more.")

    @property
    def signals(self) -> Mapping[str, float]:
        """The signals that are known, by name."""
        known = {name: getattr(self, name) for name in SIGNAL_NAMES if getattr(self, name) is not None}
        return MappingProxyType(known)

    def to_dict(self) -> dict[str, float | int]:
        """Known signals and `num_paths`, ready for JSON."""
        return {**self.signals, "num_paths": self.num_paths}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """A program is certain only if every signal named here exceeds its threshold, strictly (paper §3).

    Args:
        entropy, agreement, answer_probability, reward: A value in [0, 1), or `None` to leave the signal out:
            no signal exceeds 1.

    Examples:
        >>> thresholds = Thresholds(entropy=0.75)
        >>> thresholds.are_exceeded_by(Certaindex(entropy=0.75, num_paths=16))
        False
        >>> thresholds.are_exceeded_by(Certaindex(entropy=0.76, num_paths=16))
        True
    """

    entropy: float | None = None
    agreement: float | None = None
    answer_probability: float | None = None
    reward: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not 0 <= value < 1:
                raise ConfigurationError(
                    f"Got threshold {name} = {value} but expected a value in [0, 1): no signal exceeds 1."
                )
        if not self.to_dict():
            known = ", ".join(SIGNAL_NAMES)
            raise ConfigurationError(
                f"Got no threshold but expected at least one of {known}: all would be certain."
            )

    def are_exceeded_by(self, certaindex: Certaindex) -> bool:
        """Whether every thresholded signal is known and strictly above its threshold."""
        signals = certaindex.signals
        return all(name in signals and signals[name] > value for name, value in self.to_dict().items())

    def to_dict(self) -> dict[str, float]:
        """The thresholds that are set, by signal."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}

    def describe(self, certaindex: Certaindex) -> str:
        """The comparison in words, such as `entropy 0.69 <= 0.70`."""
        signals = certaindex.signals
        return ", ".join(
            _describe_one(name, signals.get(name), limit) for name, limit in self.to_dict().items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row of the paper's Table 1: where certaindex is read and what it must exceed."""

    thresholds: Thresholds
    detect_at: int = field(default=5)


TABLE_1: Mapping[str, Preset] = MappingProxyType(
    {
        "sc/math": Preset(thresholds=Thresholds(entropy=0.7), detect_at=5),
        "sc/gsm8k": Preset(thresholds=Thresholds(entropy=0.7), detect_at=5),
        "sc/livecodebench": Preset(thresholds=Thresholds(entropy=0.4), detect_at=5),
        "mcts/gsm8k": Preset(thresholds=Thresholds(entropy=0.99, reward=0.4), detect_at=3),
        "mcts/asdiv": Preset(thresholds=Thresholds(reward=0.4), detect_at=3),
        "rebase/gsm8k": Preset(thresholds=Thresholds(entropy=0.85, reward=0.99), detect_at=16),
        "rebase/math": Preset(thresholds=Thresholds(entropy=0.75), detect_at=16),
    }
)
"""Table 1 of the paper: certaindex thresholds by workload."""


def _describe_one(name: str, value: float | None, limit: float) -> str:
    if value is None:
        return f"{name} not known yet"
    return f"{name} {value:.2f} {'>' if value > limit else '<='} {limit:.2f}"
