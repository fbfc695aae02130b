"""One replica: the server's whole app over an engine of its own, answering what the ingress hands on."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from hf_dynasor.errors import EngineError
from hf_dynasor.serving.factory import EngineName
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.job_store import SqliteJobStore
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.http.state import count_ids_from
from hf_dynasor.serving.http.supervisor import SupervisedEngine
from hf_dynasor.serving.loading import load_model
from hf_dynasor.serving.replicas.asgi_stream import stream_messages
from hf_dynasor.serving.replicas.hints import Hint
from hf_dynasor.serving.replicas.shared_store import SharedJobStore
from hf_dynasor.serving.serve_engine import make_serving_engine

logger = logging.getLogger(__name__)

_OWNED = re.compile(r"^/v1/programs/([^/]+)/(?:events|cancel)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What every replica loads; see `load_model` and `make_serving_engine`."""

    model: str = "embedded"
    engine: EngineName = "auto"
    scheduler: str | None = None
    dtype: str | None = None
    device: str | None = None
    reward: str | None = "auto"
    reward_kind: str = "auto"


class Replica:
    """A server without a socket. Made by Ray Serve in a process of its own.

    Args:
        choice: The model and its engine.
        settings: As of any server.
        job_store: The file that all replicas share; `None` keeps programs and batches in this replica's memory.
        name: This replica's name; Ray's by default.
    """

    def __init__(
        self,
        choice: ModelChoice,
        settings: ServerSettings,
        job_store: str | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or _ask_ray_for_name()
        # Serial names of answers must not repeat between replicas: each counts from somewhere of its own.
        count_ids_from(secrets.randbits(52) << 8)
        loaded = load_model(choice.model, dtype=choice.dtype, device=choice.device)
        self._engine = SupervisedEngine(
            lambda: make_serving_engine(
                loaded,
                choice.engine,
                scheduler=choice.scheduler,
                reward=choice.reward,
                reward_kind=choice.reward_kind,
            ),
            delay_s=settings.restart_delay_s,
        )
        self._store = SqliteJobStore() if job_store is None else SharedJobStore(job_store, self.name)
        model = ServedModel(loaded, settings.model_name or loaded.name, int(time.time()))
        self._app = create_app(self._engine, model, settings, store=self._store)
        self._life = AsyncExitStack()
        self._is_started = False

    async def handle(
        self, hint: Hint, scope: dict[str, Any], body: bytes
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Messages of an ASGI answer, after one that tells who gives it, or who has to."""
        await self._start()
        owner = self._find_other_owner(scope["path"]) if hint.replica is None else None
        yield {"type": "hf_dynasor.replica", "replica": self.name, "pid": os.getpid(), "owner": owner}
        if owner is not None:
            return
        messages = stream_messages(self._app, scope, body)
        try:
            async for message in messages:
                yield dict(message)
        finally:
            await messages.aclose()

    async def check_health(self) -> None:
        """Ray asks now and then, and replaces a replica that raises three times on end."""
        await self._start()
        self._engine.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Programs and requests that this replica has, and the queue that it shares with the others."""
        state = getattr(self._app.state, "server", None)
        if state is None:
            return {"own": 0.0, "queued": 0.0}
        own = state.admission.num_running + state.admission.num_waiting
        queued = self._store.count_waiting() if isinstance(self._store, SharedJobStore) else 0
        return {"own": float(own), "queued": float(queued)}

    async def close(self) -> None:
        """Give unfinished programs back and end the engine. Safe to call twice."""
        await self._life.aclose()
        self._engine.close()

    async def __del__(self) -> None:
        """Ray awaits this when it ends a replica."""
        await self.close()

    async def _start(self) -> None:
        """The app belongs to the loop in which it is first asked."""
        if not self._is_started:
            self._is_started = True
            await self._life.enter_async_context(self._app.router.lifespan_context(self._app))

    def _find_other_owner(self, path: str) -> str | None:
        found = _OWNED.match(path)
        if found is None or not isinstance(self._store, SharedJobStore):
            return None
        owner = self._store.find_owner(found[1])
        return owner if owner != self.name else None


def split_limits(settings: ServerSettings, num_replicas: int) -> ServerSettings:
    """Limits for each caller are over all replicas, as far as they divide: each replica gets its part."""
    rate, most = settings.requests_per_minute, settings.max_concurrent_per_key
    return replace(
        settings,
        requests_per_minute=None if rate is None else -(-rate // num_replicas),
        max_concurrent_per_key=None if most is None else -(-most // num_replicas),
    )


def _ask_ray_for_name() -> str:
    from ray import serve

    context = serve.get_replica_context()
    if context is None:
        raise EngineError("A replica outside of Ray Serve needs a name.")
    return str(context.replica_id.unique_id)


__all__ = ["ModelChoice", "Replica", "split_limits"]
