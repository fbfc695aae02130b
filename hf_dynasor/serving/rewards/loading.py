"""Finds and loads reward models, and tells their kind from their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
)

from hf_dynasor.errors import ConfigurationError, ModelLoadError, name_unknown
from hf_dynasor.serving.loading import LOAD_ERRORS, LoadedModel, load_model, pick_device, pick_dtype
from hf_dynasor.serving.model_source import EMBEDDED_NAME, explain_missing, first_line, locate_model
from hf_dynasor.serving.rewards.likelihood import LikelihoodReward
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.process_head import read_process_head
from hf_dynasor.serving.rewards.scalar_head import ScalarHeadReward
from hf_dynasor.serving.rewards.step_classes import StepClassReward
from hf_dynasor.serving.rewards.step_labels import StepLabelReward

RewardKind: TypeAlias = Literal["auto", "scalar", "step_labels", "step_classes", "likelihood"]
KINDS = ("auto", "scalar", "step_labels", "step_classes", "likelihood")
OWN_LIKELIHOOD = "likelihood"  # as a name: the likelihood under the engine's own model
PROCESS_HEAD = "ForProcessRewardModel"


def load_reward_model(
    name_or_path: str | Path = EMBEDDED_NAME,
    *,
    kind: RewardKind = "auto",
    generator: LoadedModel | None = None,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool | None = None,
    **options: Any,
) -> RewardModel:
    """Load a reward model.

    Args:
        name_or_path: A hub name, a local folder, `"embedded"` (the likelihood under the embedded reasoner), or
            `"likelihood"` (the likelihood under `generator`).
        kind: `scalar` (a sequence classifier with one label), `step_labels` (a language model that writes + or -
            after a step), `step_classes` (two classes at a separator token), `likelihood` (any language model).
            `auto` tells them apart by the configuration; a bare language model can be either of two kinds, so it
            has to be said.
        generator: The model whose steps are rated; needed for `"likelihood"`.
        dtype, device, revision, trust_remote_code, local_files_only: See `load_model`.
        options: Passed on to the class of that kind: `tag`, `plus`, `minus`, `separator`, `closes_turn`, `pattern` ...

    Raises:
        ModelLoadError: The model cannot be loaded, lacks the weights of its head, or its kind cannot be told.
        ConfigurationError: An unknown kind, or options that do not fit the model.
    """
    if kind not in KINDS:
        raise name_unknown("kind of reward model", kind, KINDS)
    if name_or_path in (EMBEDDED_NAME, OWN_LIKELIHOOD) and kind not in ("auto", "likelihood"):
        raise ConfigurationError(
            f"Got the reward model {name_or_path!r} as {kind = !s} but it is a likelihood. Leave the kind out."
        )
    if name_or_path == OWN_LIKELIHOOD:
        return _use_generator(generator, options)
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    places = {"dtype": dtype, "device": device}
    if name_or_path == EMBEDDED_NAME or kind == "likelihood":
        is_generator = name_or_path == EMBEDDED_NAME == (generator.name if generator else None)
        model = (
            generator
            if is_generator and generator is not None and generator.num_shards == 1
            else load_model(name_or_path, local_files_only=local_files_only, **where, **places)  # type: ignore[arg-type]
        )
        return LikelihoodReward(model, **options)
    source, name, found = locate_model(name_or_path, local_files_only)
    loading = {key: value for key, value in where.items() if value is not None} | found
    config = _read_config(source, name, loading)
    kind = _detect_kind(config, name) if kind == "auto" else kind
    if kind == "step_labels":
        loaded = load_model(name_or_path, local_files_only=local_files_only, **where, **places)  # type: ignore[arg-type]
        return StepLabelReward(loaded, **options)
    _check_num_labels(config, kind, name)
    target = pick_device(device or "auto")
    precision = pick_dtype(dtype or "auto", target)
    if _is_process_head(config):
        options = {"head": read_process_head(source, name, loading, precision, target), **options}
    auto_class = _choose_class(config, kind)
    loaded = _load(
        auto_class, source, name, {**loading, "dtype": precision}, target, _is_process_head(config)
    )
    return ScalarHeadReward(loaded, **options) if kind == "scalar" else StepClassReward(loaded, **options)


def _use_generator(generator: LoadedModel | None, options: dict[str, Any]) -> RewardModel:
    if generator is None:
        raise ConfigurationError(
            "Got the reward model 'likelihood' without a generator. Pass generator=..., let make_engine(..., "
            "reward='likelihood') do it, or name a language model with kind='likelihood'."
        )
    return LikelihoodReward(generator, **options)


def _read_config(source: str, name: str, loading: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(source, **loading)
    except LOAD_ERRORS as error:
        raise ModelLoadError(explain_missing(name, source, error, loading)) from error


def _detect_kind(config: Any, name: str) -> RewardKind:
    architecture = next(iter(config.architectures or []), "none")
    if architecture.endswith("ForSequenceClassification"):
        return "scalar"
    if architecture.endswith(("ForTokenClassification", PROCESS_HEAD)):
        return "step_classes"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise ModelLoadError(
            f"{name!r} is a language model ({architecture}): say kind='step_labels' if it was trained to write + or - "
            "after each step (and name its tag=, plus= and minus= tokens), or kind='likelihood' to rate steps by how "
            "likely it finds them."
        )
    raise ModelLoadError(
        f"Cannot tell the kind of reward model {name!r} from its architecture {architecture!r}: say "
        f"kind='scalar', 'step_classes', 'step_labels' or 'likelihood'."
    )


def _is_process_head(config: Any) -> bool:
    return any(architecture.endswith(PROCESS_HEAD) for architecture in config.architectures or [])


def _check_num_labels(config: Any, kind: RewardKind, name: str) -> None:
    """Refuse a mismatch before anything large is loaded."""
    expected = 1 if kind == "scalar" else 2
    if not _is_process_head(config) and config.num_labels != expected:
        raise ConfigurationError(
            f"Got {name!r} with num_labels = {config.num_labels} as {kind = !s} but expected {expected}. A scalar head has "
            "one label, a head at a separator token two: name the kind that the model was trained as."
        )


def _choose_class(config: Any, kind: RewardKind) -> Any:
    if kind == "scalar":
        return AutoModelForSequenceClassification
    return AutoModel if _is_process_head(config) else AutoModelForTokenClassification


def _load(
    auto_class: Any, source: str, name: str, options: dict[str, Any], device: Any, has_own_head: bool
) -> LoadedModel:
    place = {key: value for key, value in options.items() if key != "dtype"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **place)
        model, info = auto_class.from_pretrained(source, output_loading_info=True, **options)
        model.to(device)
    except LOAD_ERRORS as error:
        raise ModelLoadError(f"Cannot load reward model {name!r}: {first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"{name!r} holds no weights for {', '.join(missing[:4])}: it was not trained as this kind of reward model, "
            "and its scores would be random. Name another kind."
        )
    return LoadedModel(
        model=model.eval(), tokenizer=tokenizer, name=name, generation_config=GenerationConfig()
    )
