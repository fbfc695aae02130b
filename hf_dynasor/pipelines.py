"""`pipeline("dynasor-reasoning")`: reasoning programs behind transformers' own interface."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from transformers import AutoModelForCausalLM
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from hf_dynasor.core import Usage
from hf_dynasor.drivers import ProgramOutcome, run_many
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError, HFDynasorError, InputError, name_unknown
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.recipe import Recipe, UserQuestion, count_repeats
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.loading import LoadedModel, prepare
from hf_dynasor.serving.solver import Solver

PipelineInput: TypeAlias = UserQuestion | Mapping[str, Any]
"""A text, a conversation, or a row of a data set with `question` or `messages`."""

Solved: TypeAlias = tuple[ReasoningProgram | None, ProgramOutcome]

EFFORT_PROGRAMS = ("chain_of_thought", "chain_consistency")
"""Programs whose chains are stopped by a rule, so that they have an effort."""

CARD_TEMPLATE = Path(__file__).parent / "model_card.md"
DEFAULT_BATCH_SIZE = 16

_OF_CONSTRUCTION = frozenset({"model", "engine", "dtype", "device"})
_WINDOW = 8  # batches of a stream that are taken at a time


class DynasorReasoningPipeline(Pipeline):  # type: ignore[misc]
    """Answers questions with a reasoning program that stops when it is certain.

    Keyword arguments, at construction or at the call, are the fields of `Recipe` (`program`, `policy`: a name or a
    file that `hf-dynasor calibrate` wrote, `budget`, `seed`, `temperature`, `prompt_format`, …) and

    - `effort`: how readily a chain of thought stops, `mild` to `crazy` (the paper's §6);
    - `return_all`: every path that was generated and every completion with its token ids, besides the answer;
    - `batch_size`: questions in flight (16);
    - `engine` at construction.

    Args:
        inputs: A question (a text or a conversation), a list of them, or anything to iterate over: a generator, a
            `KeyDataset`, a data set whose rows have `question` or `messages`.

    Returns:
        For a question a dict with `answer`, `certaindex`, `grants`, `stop_reason`, `usage` and more; for a list a list of
        them; for anything else an iterator, which takes questions as it goes and yields in their order.

    Examples:
        >>> from transformers import pipeline
        >>> reason = pipeline("dynasor-reasoning")
        >>> reason("What is 2+3?", seed=0)["answer"]
        '5'
        >>> [row["answer"] for row in reason((f"What is {n}+3?" for n in (1, 4)), seed=0, budget=5)]
        ['4', '7']
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
        batch_size = kwargs.pop("batch_size", None)
        super().__init__(*args, **kwargs)
        if batch_size is not None:
            self._forward_params["batch_size"] = batch_size
        if self.tokenizer is None:
            raise ConfigurationError(
                "The pipeline needs a tokenizer. Pass one: pipeline(..., tokenizer=...)."
            )

    def __call__(
        self, inputs: PipelineInput | Iterable[PipelineInput], **options: Any
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """Solve one question, or many side by side; see the class."""
        given = {**self._forward_params, **options}
        batch_size = given.pop("batch_size", None) or DEFAULT_BATCH_SIZE
        return_all = bool(given.pop("return_all", False))
        solver = self._make_solver(given)
        if isinstance(inputs, str | Mapping) or _is_conversation(inputs):
            return next(self._stream([cast(PipelineInput, inputs)], solver, 1, return_all))
        rows = self._stream(cast(Iterable[PipelineInput], inputs), solver, batch_size, return_all)
        return list(rows) if isinstance(inputs, list | tuple) else rows

    def close(self) -> None:
        """Stop the engine's thread, unless it was handed over; the next call starts a new one."""
        if self._engine is not None and self._owns_engine:
            self._engine.close()
            self._engine = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model, tokenizer, this pipeline as the repository's own, and a model card where there is none.

        Who loads it needs hf-dynasor, and has to allow the repository's code (a file of a few lines):
        `pipeline("dynasor-reasoning", model=FOLDER, trust_remote_code=True)`.
        """
        # The default model is a folder of this machine and nobody else's.
        self._registered_impl = {
            task: {key: value for key, value in item.items() if key != "default"}
            for task, item in PIPELINE_REGISTRY.supported_tasks.items()
            if item["impl"] is type(self)
        }
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            del self._registered_impl
        card = Path(save_directory) / "README.md"
        if not card.exists():
            card.write_text(self.make_model_card(), encoding="utf-8")

    def make_model_card(self, template: str | Path = CARD_TEMPLATE, **fields: Any) -> str:
        """A model card from a Jinja template.

        Args:
            template: By default the package's own.
            fields: What the template shows, such as `results`, a Markdown table; `base_model` and the recipe's options
                are known.
        """
        from huggingface_hub import ModelCard, ModelCardData

        name = str(getattr(self.model, "name_or_path", "") or "")
        known = {
            "base_model": Path(name).name if os.path.isdir(name) else name,
            "options": self._forward_params,
        }
        data = ModelCardData(library_name="transformers", tags=["dynasor", "reasoning", "test-time-compute"])
        return str(ModelCard.from_template(data, template_path=str(template), **{**known, **fields}))

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, options, {}

    def preprocess(self, inputs: PipelineInput) -> dict[str, UserQuestion]:
        """A question as the forward step takes it."""
        return {"question": _read_question(inputs)}

    def _forward(self, model_inputs: dict[str, UserQuestion], **options: Any) -> Answer:
        return self._make_solver(options).solve(model_inputs["question"])

    def postprocess(self, answer: Answer) -> dict[str, Any]:
        """An answer as plain data."""
        return answer.to_dict()

    def _stream(
        self, inputs: Iterable[PipelineInput], solver: Solver, batch_size: int, return_all: bool
    ) -> Iterator[dict[str, Any]]:
        """Rows in the order of the questions. Some batches are taken at a time, so that what waits is bounded."""
        asked = count_repeats(map(_read_question, inputs))
        while window := list(islice(asked, batch_size * _WINDOW)):
            waiting: dict[int, Solved] = {}
            place = 0
            for solved in _solve_window(window, solver, batch_size):
                waiting[solved[1].index] = solved
                while place in waiting:
                    yield self._shape(*waiting.pop(place), return_all)
                    place += 1

    def _shape(
        self, program: ReasoningProgram | None, outcome: ProgramOutcome, return_all: bool
    ) -> dict[str, Any]:
        if outcome.error is not None:
            raise outcome.error
        assert program is not None  # of an outcome without an error
        assert outcome.answer is not None
        row = self.postprocess(outcome.answer)
        if return_all:
            row["paths"] = [path.to_dict() for path in outcome.answer.paths]
            row["completions"] = program.snapshot()["completions"]
        return row

    def _make_solver(self, options: dict[str, Any]) -> Solver:
        for name in _OF_CONSTRUCTION & set(options):
            raise ConfigurationError(f"Got {name} at a call, but it belongs to pipeline(..., {name}=...).")
        if self._engine is None:
            name = getattr(self.model, "name_or_path", "") or "pipeline"
            loaded = prepare(LoadedModel(model=self.model, tokenizer=self.tokenizer, name=name))
            self._engine = make_engine(loaded, engine=self._engine_name)
        return Solver(self._engine, **_apply_effort(options))


def _solve_window(
    window: Sequence[tuple[UserQuestion, int]], solver: Solver, batch_size: int
) -> Iterator[Solved]:
    """Each question with its program as it ends; one that cannot be asked ends alone, with its error."""
    places: list[int] = []
    programs: list[ReasoningProgram] = []
    refused: list[Solved] = []

    def build() -> Iterator[tuple[ReasoningProgram, AllocationPolicy]]:
        for index, (question, repeat) in enumerate(window):
            try:
                program, policy = solver.recipe.build(question, label=f"question-{index}", repeat=repeat)
            except HFDynasorError as error:
                refused.append((None, ProgramOutcome(index=index, error=error, usage=Usage())))
                continue
            places.append(index)
            programs.append(program)
            yield program, policy

    for outcome in run_many(build(), solver.engine, max_active=batch_size, timeout=solver.timeout):
        yield programs[outcome.index], _move(outcome, places[outcome.index])
    yield from refused


def _move(outcome: ProgramOutcome, index: int) -> ProgramOutcome:
    return ProgramOutcome(index=index, answer=outcome.answer, error=outcome.error, usage=outcome.usage)


def _apply_effort(options: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe options in which an effort is the rule of the chains that it stops."""
    given = dict(options)
    effort = given.pop("effort", None)
    if effort is None:
        return given
    from hf_dynasor.stopping.consistency import EFFORTS

    if effort not in EFFORTS:
        raise name_unknown("effort", effort, EFFORTS)
    program = given.get("program", Recipe.__dataclass_fields__["program"].default)
    own = dict(given.get("program_options") or {})
    if program not in EFFORT_PROGRAMS or "rule" in own:
        raise ConfigurationError(
            f"Got {effort = } for program {program!r}{' and a rule' if 'rule' in own else ''}. Expected it with "
            f"program {' or '.join(map(repr, EFFORT_PROGRAMS))}, and no rule beside it."
        )
    return given | {"program_options": {**own, "rule": effort}}


def _read_question(inputs: PipelineInput) -> UserQuestion:
    if not isinstance(inputs, Mapping):
        return inputs
    for name in ("question", "messages"):
        if name in inputs:
            return cast(UserQuestion, inputs[name])
    raise InputError(
        f"Got a row with {', '.join(map(str, inputs)) or 'nothing'} but expected 'question' or 'messages'. Use "
        "KeyDataset(dataset, NAME) for another column."
    )


def _is_conversation(inputs: Any) -> bool:
    is_list = isinstance(inputs, Sequence) and bool(inputs) and not isinstance(inputs, str)
    return is_list and isinstance(inputs[0], Mapping) and "role" in inputs[0]


def register_pipeline(task: str) -> None:
    """Make the task known to transformers under a name, with the embedded reasoner as its default model."""
    from hf_dynasor.hub_pipeline import HubReasoningPipeline

    if task in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        task,
        pipeline_class=HubReasoningPipeline,
        pt_model=AutoModelForCausalLM,
        default={"model": (str(REASONER_PATH), "main")},
        type="text",
    )
