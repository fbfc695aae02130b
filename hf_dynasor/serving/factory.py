"""Makes the engine that fits a model, from a name, a path, a pipeline or a loaded model."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError, UnsupportedError, name_unknown
from hf_dynasor.serving.continuous_engine import ContinuousBatchingEngine
from hf_dynasor.serving.generate_engine import GenerateEngine
from hf_dynasor.serving.loading import LoadedModel, from_pipeline, load_model
from hf_dynasor.serving.model_source import EMBEDDED_NAME
from hf_dynasor.serving.rewards.lazy import LazyReward
from hf_dynasor.serving.rewards.loading import RewardKind, load_reward_model
from hf_dynasor.serving.rewards.model import RewardModel

logger = logging.getLogger(__name__)

EngineName: TypeAlias = Literal["auto", "continuous", "generate"]


def make_engine(
    model: str | Path | LoadedModel | Any = EMBEDDED_NAME,
    *,
    engine: EngineName = "auto",
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    reward: str | Path | RewardModel | None = "auto",
    reward_kind: RewardKind = "auto",
    scheduler: str | None = None,
    backend: str | None = None,
    **options: Any,
) -> Engine:
    """Make an engine over a model in this process, or over a server that has it.

    Args:
        model: A hub name, a folder, a `.gguf` file, `"embedded"`, a `LoadedModel`, or a user's own
            `pipeline("text-generation", ...)`.
        engine: `generate` or `continuous`. `auto` takes `generate` on a CPU, where it is 1.3 to 1.4 times
            as fast on one batch or one request and about equal on a few programs (`benchmarks/engine_speed.py`), and
            `continuous` on CUDA; where that cannot run the model, `generate` after a warning that says why. Ask for `continuous` where requests continue
            each other's text (trees, probes), since it computes a shared beginning once, and for hundreds of requests at once.
        dtype, device, quantization, revision, trust_remote_code, attn_implementation: Only for models that are still
            to be loaded; see `load_model`. `auto` is the same as `None`.
        reward: What answers `Score` requests: a hub name, a folder, `"embedded"`, `"likelihood"` (of this very model),
            a `RewardModel`, or none. `auto` is the embedded reward for the embedded model, loaded when it is first
            asked for, and none for other models.
        reward_kind: See `load_reward_model`.
        scheduler: Which programs go first, by the name of a policy in `hf_dynasor.scheduler.SCHEDULING_POLICIES`; by
            default `gang_sjf`. Only `continuous` schedules programs: with `auto` it is taken.
        backend: The address of an OpenAI-compatible server, which ends in `/v1`: it runs the model, `model` is its
            name there (`"embedded"`, the default, takes its only one), and `engine`, `dtype` and `device` are its affair.
        options: Passed on to the engine's class.

    Raises:
        ModelLoadError: The model or the reward model cannot be loaded.
        UnsupportedError: The engine that was asked for cannot run the model; of one that is split over processes only
            `continuous` can.
        ConfigurationError: An unknown engine, dtype or device, or one of the latter for a model that is loaded.
    """
    if engine not in ("auto", "continuous", "generate"):
        raise name_unknown("engine", engine, ["auto", "continuous", "generate"])
    if backend is not None:
        refuse_with_backend(engine=engine, dtype=dtype, device=device, quantization=quantization)
        from hf_dynasor.serving.remote import make_remote_engine

        given = {"reward": reward, "reward_kind": reward_kind, "scheduler": scheduler, **options}
        return make_remote_engine(backend, model, **given)
    loading = {"dtype": dtype, "device": device, "quantization": quantization, "revision": revision}
    loading["attn_implementation"] = attn_implementation
    loaded = _load(model, trust_remote_code=trust_remote_code, **loading)
    chosen = _choose_reward(reward, reward_kind, loaded, is_embedded=model == EMBEDDED_NAME)
    if chosen is not None:
        options["reward"] = chosen
    if scheduler is not None:
        if engine == "generate":
            raise ConfigurationError(
                f"Got {scheduler = } but the engine 'generate' schedules no programs. Use engine='continuous'."
            )
        engine, options["scheduler"] = "continuous", scheduler
    if loaded.num_shards > 1:
        if engine == "generate":
            loaded.check_whole("The engine 'generate'")
        engine = "continuous"
    if engine == "continuous":
        return ContinuousBatchingEngine(loaded, **options)
    if engine == "auto" and _is_on_cuda(loaded):
        try:
            return ContinuousBatchingEngine(loaded, **options)
        except UnsupportedError as error:
            logger.warning("Falling back to GenerateEngine: %s", error)
    return GenerateEngine(loaded, **options)


def refuse_with_backend(**given: Any) -> None:
    """Raise `ConfigurationError` for an option of a model in this process, where a server has the model."""
    for option, value in given.items():
        if value not in (None, "auto"):
            raise ConfigurationError(
                f"Got {option} = {value!r} with a backend, which runs the model in its own way. Leave it out."
            )


def _choose_reward(
    reward: Any, kind: RewardKind, loaded: LoadedModel, *, is_embedded: bool
) -> RewardModel | None:
    if kind != "auto" and (reward == "auto" or not isinstance(reward, (str, Path))):
        raise ConfigurationError(
            f"Got reward_{kind = !s} without a reward model to load. Name one (reward=, --reward-model), or leave the "
            "kind out."
        )
    if reward == "auto":
        return LazyReward(partial(load_reward_model, generator=loaded)) if is_embedded else None
    if isinstance(reward, (str, Path)):
        device = str(loaded.input_device)
        return load_reward_model(reward, kind=kind, generator=loaded, device=device)
    if reward is not None and not isinstance(reward, RewardModel):
        raise ConfigurationError(
            f"Got a reward of type {type(reward).__name__} but expected a name, a folder, a RewardModel or None."
        )
    return reward


def _is_on_cuda(loaded: LoadedModel) -> bool:
    return bool(loaded.model.device.type == "cuda")


def _load(model: Any, *, trust_remote_code: bool, **options: Any) -> LoadedModel:
    if isinstance(model, (str, Path)):
        return load_model(model, trust_remote_code=trust_remote_code, **options)
    loaded = model if isinstance(model, LoadedModel) else from_pipeline(model)
    for option, value in options.items():
        if value not in (None, "auto"):
            raise ConfigurationError(
                f"Got {option}={value!r} for {loaded.name}, which is loaded already ({loaded.model.dtype} on "
                f"{loaded.model.device}). Load it so to begin with, or leave {option} out."
            )
    return loaded
