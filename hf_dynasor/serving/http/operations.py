"""Routes for whoever runs the server: is it alive, is it ready, how loaded is it, what has it done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from hf_dynasor import __version__
from hf_dynasor.engine import Engine
from hf_dynasor.errors import EngineError
from hf_dynasor.serving.http.errors import ApiError
from hf_dynasor.serving.http.state import ServerState


def read_state(request: Request) -> ServerState:
    """The server that a request came to."""
    state: ServerState = request.app.state.server
    return state


def add_operations(app: FastAPI) -> None:
    """Add `/health`, `/ready`, `/version`, `/load` and `/metrics`."""

    @app.get("/health")
    async def health(request: Request) -> Response:
        """200 while the engine works, else 503 with the reason."""
        try:
            read_state(request).engine.check_health()
        except EngineError as error:
            return JSONResponse({"status": "dead", "reason": str(error)}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready(request: Request) -> Response:
        """200 while requests are taken, else 503: the engine is down or the server drains."""
        try:
            read_state(request).check_ready()
        except ApiError as error:
            return JSONResponse({"status": "not ready", "reason": error.message}, 503, headers=error.headers)
        return JSONResponse({"status": "ready"})

    @app.get("/version")
    async def version() -> dict[str, str]:
        """The package's version."""
        return {"version": __version__}

    @app.get("/load")
    async def load(request: Request) -> dict[str, Any]:
        """How busy it is now."""
        state = read_state(request)
        return {
            "num_running": state.admission.num_running,
            "num_waiting": state.admission.num_waiting,
            "num_programs": request.app.state.jobs.num_active,
            "max_running": state.settings.max_running,
            "max_waiting": state.settings.max_waiting,
            "is_draining": state.is_draining,
        }

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus's page."""
        found = read_state(request).metrics
        return Response(found.render(), media_type=found.content_type)


def make_cache_reader(engine: Engine) -> Callable[[], float] | None:
    """Reads how full the cache of an engine with pages is; `None` for engines without."""
    if not hasattr(_unwrap(engine), "count_pages"):
        return None

    def read() -> float:
        pages = _unwrap(engine).count_pages()
        return float(1 - pages.free / pages.total) if pages.total else 0.0

    return read


def make_scheduling_readers(engine: Engine) -> tuple[Callable[[], float], Callable[[], float]] | None:
    """Read the gang size and the raises of an engine that schedules programs; `None` for others."""
    if not hasattr(_unwrap(engine), "scheduling"):
        return None
    return (
        lambda: float(_unwrap(engine).scheduling.gang_size),
        lambda: float(_unwrap(engine).scheduling.scheduler.num_raised),
    )


def _unwrap(engine: Engine) -> Any:
    """The engine that works now, where another one stands before it."""
    return getattr(engine, "current", engine)
