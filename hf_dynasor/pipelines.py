"""`pipeline("dynasor-reasoning")`: reasoning programs behind transformers' own interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from transformers import AutoModelForCausalLM
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import Answer
from hf_dynasor.recipe import UserQuestion
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.loading import LoadedModel, prepare
from hf_dynasor.serving.solver import Solver

_OF_CONSTRUCTION = frozenset({"model", "engine", "dtype", "device"})


class DynasorReasoningPipeline(Pipeline):  # type: ignore[misc]
    """Answers questions with a reasoning program that stops when it is certain.

    Keyword arguments, at construction or at the call, are the fields of `Recipe` (`program`, `policy`,
    `budget`, `seed`, `temperature`, …), and `engine` at construction: a name, or a running engine such as a
    `RemoteEngine`, which then runs in place of the pipeline's model.

    Args:
        inputs: A question (a text or a conversation), or a list of them (solved side by side).

    Returns:
        For each question a dict with `answer`, `certaindex`, `grants`, `stop_reason`, `usage` and more.

    Examples:
        >>> from transformers import pipeline
        >>> reason = pipeline("dynasor-reasoning")
        >>> reason("What is 2+3?", seed=0)["answer"]
        '5'
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, engine: EngineName | Engine = "auto", **kwargs: Any) -> None:
        self._engine_name: Any = engine
        self._owns_engine = not isinstance(engine, Engine)
        self._engine: Any = None if isinstance(engine, str) else engine
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise ConfigurationError(
                "The pipeline needs a tokenizer. Pass one: pipeline(..., tokenizer=...)."
            )

    def __call__(
        self, inputs: UserQuestion | Iterable[UserQuestion], **options: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Solve one question, or many side by side; see the class."""
        solver = self._make_solver({**self._forward_params, **options})
        if isinstance(inputs, str) or _is_conversation(inputs):
            return self.postprocess(solver.solve(cast(UserQuestion, inputs)))
        questions = cast(Iterable[UserQuestion], inputs)
        outcomes = sorted(solver.solve_many(questions), key=lambda outcome: outcome.index)
        return [self._unwrap(outcome) for outcome in outcomes]

    def close(self) -> None:
        """Stop the engine's thread, unless it was handed over; the next call starts a new one."""
        if self._engine is not None and self._owns_engine:
            self._engine.close()
            self._engine = None

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    def preprocess(self, inputs: UserQuestion) -> dict[str, UserQuestion]:
        """A question as the forward step takes it."""
        return {"question": inputs}

    def _forward(self, model_inputs: dict[str, UserQuestion], **options: Any) -> Answer:
        return self._make_solver(options).solve(model_inputs["question"])

    def postprocess(self, answer: Answer) -> dict[str, Any]:
        """An answer as plain data."""
        return answer.to_dict()

    def _unwrap(self, outcome: Any) -> dict[str, Any]:
        if outcome.error is not None:
            raise outcome.error
        return self.postprocess(outcome.answer)

    def _make_solver(self, options: dict[str, Any]) -> Solver:
        for name in _OF_CONSTRUCTION & set(options):
            raise ConfigurationError(f"Got {name} at a call, but it belongs to pipeline(..., {name}=...).")
        if self._engine is None:
            name = getattr(self.model, "name_or_path", "") or "pipeline"
            loaded = prepare(LoadedModel(model=self.model, tokenizer=self.tokenizer, name=name))
            self._engine = make_engine(loaded, engine=self._engine_name)
        return Solver(self._engine, **options)


def _is_conversation(inputs: Any) -> bool:
    return isinstance(inputs, Sequence) and bool(inputs) and isinstance(inputs[0], Mapping)


def register_pipeline(task: str) -> None:
    """Make the task known to transformers under a name, with the embedded reasoner as its default model."""
    if task in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        task,
        pipeline_class=DynasorReasoningPipeline,
        pt_model=AutoModelForCausalLM,
        default={"model": (str(REASONER_PATH), "main")},
        type="text",
    )
