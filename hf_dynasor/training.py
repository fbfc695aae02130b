"""`ReasoningEvalCallback`: what test-time compute brings, at each evaluation of a transformers or trl trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.measures import name_apart
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.savings import measure_savings
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.loading import LoadedModel, prepare

DEFAULT_SEED = 0


class ReasoningEvalCallback(TrainerCallback):  # type: ignore[misc]
    """Solves questions with a reasoning program whenever a trainer evaluates, and logs what it found.

    It logs `eval_reasoning_accuracy`, `eval_reasoning_net_tokens`, `eval_reasoning_tokens_saved`,
    `eval_reasoning_tokens_saved_at_equal_accuracy`, `eval_reasoning_certaindex_correlation` and more (see
    `hf_dynasor.evaluation.savings`), and adds them to the evaluation's metrics, so that `metric_for_best_model` may name one.
    The model's weights, its mode and torch's random numbers are left as they were: training goes on as without it.

    Args:
        questions: What is asked, each time the same with the same seeds.
        trainer: Whose reporters (TensorBoard, Weights & Biases, ...) and `log_history` get the figures; without it they go
            to `state.log_history` and the metrics alone.
        recipe: Program, policy and sampling; by default self-consistency under the static threshold. Or its fields as
            further keyword arguments.
        tokenizer: By default the trainer's `processing_class`.
        engine: See `make_engine`.
        max_active: Most questions in flight.
        prefix: Begins the names of the figures.

    Raises:
        InputError: No question.
        ConfigurationError: A recipe beside its fields.

    Examples:
        ```python
        trainer = Trainer(model=model, args=arguments, processing_class=tokenizer, ...)
        trainer.add_callback(ReasoningEvalCallback(questions, trainer=trainer, budget=8))
        trainer.train()
        ```
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        trainer: Any = None,
        recipe: Recipe | None = None,
        tokenizer: Any = None,
        engine: EngineName = "generate",
        max_active: int = 16,
        prefix: str = "eval_reasoning",
        **options: Any,
    ) -> None:
        if not questions:
            raise InputError("Got no questions but expected at least one.")
        if recipe is not None and options:
            raise ConfigurationError(
                f"Got a recipe and also {sorted(options)}. Expected the one or the other."
            )
        chosen = recipe if recipe is not None else Recipe(**options)
        self.questions = tuple(questions)
        self.recipe = replace(chosen, seed=DEFAULT_SEED) if chosen.seed is None else chosen
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._engine: EngineName = engine
        self._max_active = max_active
        self._prefix = prefix

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Evaluate the model as it is; on the main process alone."""
        if not state.is_world_process_zero:
            return
        tokenizer = self._tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise ConfigurationError(
                "The trainer has no tokenizer. Pass one: Trainer(processing_class=...) or "
                "ReasoningEvalCallback(tokenizer=...)."
            )
        figures = name_apart(self.measure(_unwrap(kwargs["model"]), tokenizer), self._prefix)
        if metrics is not None:
            metrics.update(figures)
        if self._trainer is not None:
            self._trainer.log(dict(figures))
        else:
            state.log_history.append({**figures, "step": state.global_step})

    def measure(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """The figures of a model as it is now.

        Args:
            model: A causal language model, in any mode.
            tokenizer: Its own.
        """
        name = str(getattr(model, "name_or_path", "") or "model in training")
        with _left_as_it_was(model):
            loaded = prepare(LoadedModel(model=model, tokenizer=tokenizer, name=name))
            engine = make_engine(loaded, engine=self._engine)
            try:
                return measure_savings(self.questions, self.recipe, engine, max_active=self._max_active)
            finally:
                engine.close()


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Put the model's mode, its cache setting and torch's random numbers back."""
    import torch

    was_training, used_cache = model.training, model.config.use_cache
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            model.config.use_cache = True  # gradient checkpointing turns it off
            yield
    finally:
        model.config.use_cache = used_cache
        model.train(was_training)


def _unwrap(model: Any) -> Any:
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model)
