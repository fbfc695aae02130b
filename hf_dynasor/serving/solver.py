"""`solve` and `Solver`: a question in, an answer with its certaindex and token account out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_dynasor.drivers import DEFAULT_TIMEOUT, ProgramOutcome, run, run_many
from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError, HFDynasorError
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.program_run import OnGrant
from hf_dynasor.recipe import Recipe, UserQuestion, count_repeats
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.loading import EMBEDDED_NAME, LoadedModel
from hf_dynasor.serving.rewards.model import RewardModel


class Solver:
    """An engine that stays loaded, with a recipe for questions. Close it, or use it in a `with` block.

    Args:
        model: A hub name, a local folder, a `.gguf` file, a `LoadedModel`, a transformers
            `pipeline("text-generation", ...)`, or a running engine. By default the embedded reasoner.
        engine: `generate`, `continuous`, or `auto` (the default); see `hf_dynasor.serving.make_engine`.
        dtype, device, quantization: Passed to `load_model`.
        reward: What rates steps: a name, a folder, `"likelihood"`, a `RewardModel`, or none; see `make_engine`. By
            default the embedded reward for the embedded reasoner.
        backend: The address of a server that runs the model, `http://HOST:PORT/v1`; `model` is then its name there. For
            more than that pass a `RemoteEngine` as the model.
        timeout: Seconds to wait for the next completion.
        recipe: How questions are solved; or its fields as further keyword arguments.

    Examples:
        >>> with Solver(budget=4, seed=0) as solver:
        ...     solver.solve("What is 2+3?").text
        '5'
    """

    def __init__(
        self,
        model: str | Path | LoadedModel | Engine | Any = EMBEDDED_NAME,
        *,
        engine: EngineName | None = None,
        dtype: str | None = None,
        device: str | None = None,
        quantization: str | None = None,
        reward: str | Path | RewardModel | None = "auto",
        backend: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        recipe: Recipe | None = None,
        **options: Any,
    ) -> None:
        self.recipe = _make_recipe(recipe, options)
        self.timeout = timeout
        self._owns_engine = not isinstance(model, Engine)
        loading = {"dtype": dtype, "device": device, "quantization": quantization}
        self.engine: Engine = _open_engine(model, engine, loading, reward, backend)

    def solve(self, question: UserQuestion, *, on_grant: OnGrant | None = None) -> Answer:
        """Solve one question.

        Args:
            question: A text that is not empty, or a conversation that ends with the user's turn.
            on_grant: Called after each grant with its record.

        Raises:
            InputError: The question is empty.
            ConfigurationError: The prompt does not fit the model, or the model has no chat template.
            EngineError: The engine died or fell silent.
        """
        program, policy = self.recipe.build(question)
        return run(program, self.engine, policy, timeout=self.timeout, on_grant=on_grant)

    def solve_many(
        self, questions: Iterable[UserQuestion], *, max_active: int = 16
    ) -> Iterator[ProgramOutcome]:
        """Solve many questions over the one engine; each outcome is yielded as it is ready, with its index.

        A question that cannot be asked ends alone, with its error in the outcome.

        Raises:
            EngineError: The engine died or fell silent.
        """
        refused: list[ProgramOutcome] = []
        places: list[int] = []
        programs = self._build_programs(questions, places, refused)
        for outcome in run_many(programs, self.engine, max_active=max_active, timeout=self.timeout):
            yield replace(outcome, index=places[outcome.index])
            yield from _take_all(refused)
        yield from _take_all(refused)

    def _build_programs(
        self, questions: Iterable[UserQuestion], places: list[int], refused: list[ProgramOutcome]
    ) -> Iterator[tuple[ReasoningProgram, AllocationPolicy]]:
        for index, (question, repeat) in enumerate(count_repeats(questions)):
            try:
                built = self.recipe.build(question, label=f"question-{index}", repeat=repeat)
            except HFDynasorError as error:
                refused.append(ProgramOutcome(index=index, error=error))
                continue
            places.append(index)
            yield built

    def close(self) -> None:
        """Close the engine, unless it was handed over."""
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def solve(
    question: UserQuestion,
    *,
    model: str | Path | LoadedModel | Engine | Any = EMBEDDED_NAME,
    engine: EngineName | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    reward: str | Path | RewardModel | None = "auto",
    backend: str | None = None,
    on_grant: OnGrant | None = None,
    **options: Any,
) -> Answer:
    """Solve one question and let go of the model; for several questions keep a `Solver`.

    Args:
        question: A text that is not empty, or a conversation that ends with the user's turn.
        model, engine, dtype, device, quantization, reward, backend: See `Solver`.
        on_grant: Called after each grant with its record.
        options: Fields of `Recipe`: `program`, `policy`, `budget`, `seed`, `temperature` and so on.

    Examples:
        >>> answer = solve("What is 2+3?", budget=20, seed=0)
        >>> answer.text, answer.stop_reason.value
        ('5', 'certain')
    """
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "quantization": quantization}
    with Solver(model, engine=engine, reward=reward, backend=backend, **loading, **options) as solver:
        return solver.solve(question, on_grant=on_grant)


def _make_recipe(recipe: Recipe | None, options: dict[str, Any]) -> Recipe:
    known = Recipe.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigurationError(f"Unknown option {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
    if recipe is not None and options:
        raise ConfigurationError(f"Got a recipe and also {sorted(options)}. Expected the one or the other.")
    return recipe if recipe is not None else Recipe(**options)


def _take_all(outcomes: list[ProgramOutcome]) -> Iterator[ProgramOutcome]:
    while outcomes:
        yield outcomes.pop(0)


def _open_engine(
    model: Any, engine: EngineName | None, loading: dict[str, str | None], reward: Any, backend: str | None
) -> Engine:
    if not isinstance(model, Engine):
        options: dict[str, Any] = {name: value for name, value in loading.items() if value is not None}
        return make_engine(model, engine=engine or "auto", reward=reward, backend=backend, **options)
    given = {"engine": engine, **loading, "backend": backend}
    for name, value in {**given, "reward": None if reward == "auto" else reward}.items():
        if value is not None:
            raise ConfigurationError(
                f"Got {name} = {value!r} with a running engine, which has its own. Leave it out."
            )
    return model
