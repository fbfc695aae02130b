"""Makes a remote engine from what a caller says: an address, a name, a reward model by name or address."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.model_source import EMBEDDED_NAME
from hf_dynasor.serving.remote.address import is_url
from hf_dynasor.serving.remote.engine import RemoteEngine
from hf_dynasor.serving.remote.exchange import Bounds
from hf_dynasor.serving.remote.ordering import DEFAULT_SCHEDULER
from hf_dynasor.serving.remote.probing import Found
from hf_dynasor.serving.remote.rewards import RemoteReward
from hf_dynasor.serving.remote.setup import check_agreement, check_tokenizer, find_by_name
from hf_dynasor.serving.rewards.lazy import LazyReward
from hf_dynasor.serving.rewards.loading import OWN_LIKELIHOOD, RewardKind, load_reward_model
from hf_dynasor.serving.rewards.model import RewardModel


def make_remote_engine(
    backend: str,
    model: Any = EMBEDDED_NAME,
    *,
    reward: Any = "auto",
    reward_kind: RewardKind = "auto",
    scheduler: str | None = None,
    **options: Any,
) -> RemoteEngine:
    """An engine over the server at an address.

    Args:
        backend: The address, which ends in `/v1`.
        model: What the server calls the model; `"embedded"` (the default everywhere) takes its only one.
        reward: What answers `Score` requests: another server's address, or as in `make_engine`; `auto` is the embedded
            reward for the embedded model, and none for others.
        reward_kind: See `load_reward_model`.
        scheduler: See `RemoteEngine`.
        options: Passed on to `RemoteEngine`.

    Raises:
        ConfigurationError: The model is no name.
    """
    if not isinstance(model, (str, Path)):
        raise ConfigurationError(
            f"Got a model of type {type(model).__name__} with the backend {backend!r}, which has the model itself. "
            "Expected the server's name for it."
        )
    return RemoteEngine(
        backend,
        model=None if model == EMBEDDED_NAME else str(model),
        reward=partial(choose_reward, reward, reward_kind),
        scheduler=scheduler or DEFAULT_SCHEDULER,
        **options,
    )


def choose_reward(
    asked: Any, kind: RewardKind, found: Found, loaded: LoadedModel | None
) -> RewardModel | None:
    """The reward model of a remote engine, once its server is known."""
    is_named = isinstance(asked, (str, Path)) and asked != "auto" and not is_url(asked)
    if kind != "auto" and not is_named:
        raise ConfigurationError(
            f"Got reward_{kind = !s} without a reward model to load here. Name one (reward=, --reward-model), or leave "
            "the kind out."
        )
    if asked == "auto":
        is_embedded = found.model == EMBEDDED_NAME and loaded is not None
        return LazyReward(load_reward_model) if is_embedded else None
    if is_url(asked):
        return RemoteReward(asked)
    if asked == OWN_LIKELIHOOD:
        raise ConfigurationError(
            "Got the reward 'likelihood', which reads the model's own probabilities, but the model runs on a server. Use "
            "the programs' own reward from log-probabilities (--reward likelihood), or name a reward model."
        )
    if is_named:
        return load_reward_model(asked, kind=kind)
    if asked is not None and not isinstance(asked, RewardModel):
        raise ConfigurationError(
            f"Got a reward of type {type(asked).__name__} but expected a name, a folder, an address, a RewardModel or None."
        )
    return asked


def find_served_tokenizer(engine: RemoteEngine) -> LoadedModel:
    """The tokenizer that a server before this engine needs: the engine's, else the one of the server's own name.

    Raises:
        ConfigurationError: There is none, or it is another model's.
    """
    if engine.loaded is not None:
        return engine.loaded
    loaded = check_tokenizer(engine.name, find_by_name(engine.found))
    check_agreement(loaded, engine.found, engine.address, timeout_s=Bounds().connect_s)
    return loaded
