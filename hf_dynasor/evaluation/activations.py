"""The paper's activation predictor (§3): a small probe on hidden states at detect @knob that foretells the units needed.

Records hold no activations but everything to make them again: `list_texts` gives the prompts, an engine that
`ReadsHiddenStates` the vectors. The probe is a ridge regression; numpy is loaded when one is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hf_dynasor.core import Prompt, TokenIds
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replay import read_recipe
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.samples import SampleSet, replay_samples
from hf_dynasor.scheduler import Even, Length

DEFAULT_PENALTY = 100.0
"""Of the squared weights on standardised activations, chosen before any test question was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationProbe:
    """A linear function of a hidden state.

    Args:
        means, scales: What standardises each activation.
        weights: Of the standardised activations.
        bias: What it foretells for the mean state.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def predict(self, state: Sequence[float]) -> float:
        """What it foretells.

        Raises:
            ConfigurationError: A state of another width.
        """
        if len(state) != len(self.weights):
            raise ConfigurationError(
                f"Got a state of width {len(state)} but the probe was fitted on {len(self.weights)}."
            )
        terms = zip(self.weights, state, self.means, self.scales, strict=True)
        return self.bias + sum(w * (x - mean) / scale for w, x, mean, scale in terms)

    def to_dict(self) -> dict[str, Any]:
        """The probe, ready for JSON; `ActivationProbe(**row)` reads it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def fit_probe(
    states: Sequence[Sequence[float]], targets: Sequence[float], *, penalty: float = DEFAULT_PENALTY
) -> ActivationProbe:
    """Ridge regression on standardised activations.

    Args:
        states: A vector for each question, all of one width.
        targets: What is to be foretold for each.
        penalty: Of the squared weights, above 0.

    Raises:
        ConfigurationError: The penalty is not above 0.
        InputError: Fewer than two questions, or not a target for each.
    """
    import numpy as np

    if not penalty > 0:
        raise ConfigurationError(f"Got {penalty = } but expected a number above 0.")
    if len(states) < 2 or len(states) != len(targets):
        raise InputError(
            f"Got {len(states)} states and {len(targets)} targets but expected as many, and at least 2."
        )
    x, y = np.asarray(states, dtype=float), np.asarray(targets, dtype=float)
    means, scales = x.mean(axis=0), x.std(axis=0)
    scales[scales == 0] = 1.0
    x = (x - means) / scales
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    return ActivationProbe(
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(weights.tolist()),
        bias=float(y.mean()),
    )


def predict_held_out(
    states: Sequence[Sequence[float]],
    targets: Sequence[float],
    *,
    folds: int = 5,
    penalty: float = DEFAULT_PENALTY,
) -> list[float]:
    """What a probe foretells for each question that was fitted on the other folds: honest figures to choose by.

    Raises:
        ConfigurationError: Fewer than 2 folds, or more than questions.
    """
    if not 2 <= folds <= len(states):
        raise ConfigurationError(f"Got {folds = } for {len(states)} questions but expected 2 to that many.")
    predicted = [0.0] * len(states)
    for fold in range(folds):
        kept = [place for place in range(len(states)) if place % folds != fold]
        probe = fit_probe([states[p] for p in kept], [targets[p] for p in kept], penalty=penalty)
        for place in range(fold, len(states), folds):
            predicted[place] = probe.predict(states[place])
    return predicted


def list_texts(trace: ProgramTrace, detect_at: int) -> list[Prompt]:
    """The prompt and each of the first samples of a recorded self-consistency, as an engine would continue them.

    Raises:
        InputError: A trace of another program.
    """
    if trace.program != "self_consistency":
        raise InputError(f"Got a trace of {trace.program!r} but expected samples of 'self_consistency'.")
    prompt = read_recipe(trace, Even(), trace.budget).build_prompt(trace.question)
    by_name = {item.request_id: item for item in trace.completions}
    names = sorted(by_name, key=lambda name: int(name.rpartition("-")[2]))[:detect_at]
    return [prompt + TokenIds(ids=tuple(by_name[name].token_ids)) for name in names]


def average_states(states: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of several vectors: what a question's first samples hold together."""
    return tuple(sum(column) / len(states) for column in zip(*states, strict=True))


def replay_predicted(
    samples: Sequence[SampleSet], predicted: Mapping[str, float], *, limit: float, detect_at: int = 5
) -> list[ReplayedQuestion]:
    """Replays: a question ends at detect @knob where no more than `limit` units are foretold, else it gets all.

    Args:
        samples: Recorded questions.
        predicted: Units foretold for each, by its id.
        limit: Above which the full budget is granted.
        detect_at: Units after which the probe reads.

    Raises:
        InputError: A question without a prediction.
    """
    if missing := [item.id for item in samples if item.id not in predicted]:
        raise InputError(f"Got no prediction for {missing[0]!r}. Expected one for each question.")
    short = replay_samples(samples, Length(max_tokens=1, detect_at=detect_at))
    full = replay_samples(samples, Even())
    return [
        replace(early, explanation=f"{predicted[early.id]:.1f} units foretold")
        if predicted[early.id] <= limit
        else late
        for early, late in zip(short, full, strict=True)
    ]
