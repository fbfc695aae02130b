"""The app: routes to handlers, errors to OpenAI's shape. Everything it serves from is handed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from hf_dynasor import __version__
from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.engine import Engine
from hf_dynasor.errors import HFDynasorError
from hf_dynasor.serving.http import tokens, wire
from hf_dynasor.serving.http.bridge import Admission, EventPump
from hf_dynasor.serving.http.chat import answer_chat
from hf_dynasor.serving.http.chat_programs import answer_program_chat
from hf_dynasor.serving.http.completions import answer_completion
from hf_dynasor.serving.http.errors import ApiError, not_found, translate
from hf_dynasor.serving.http.gate import BodyLimit, Gate, HeadRequests, RequestIds
from hf_dynasor.serving.http.job_runner import JobRunner
from hf_dynasor.serving.http.job_store import JobStore, SqliteJobStore
from hf_dynasor.serving.http.metrics import Metrics
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.openapi import add_document
from hf_dynasor.serving.http.operations import (
    add_operations,
    make_cache_reader,
    make_scheduling_readers,
    read_state,
)
from hf_dynasor.serving.http.page_routes import add_page
from hf_dynasor.serving.http.programs_api import add_programs, run_job
from hf_dynasor.serving.http.responses_api import add_responses
from hf_dynasor.serving.http.responses_store import ResponseStore
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.http.state import ServerState
from hf_dynasor.serving.http.terms import read_tenant
from hf_dynasor.serving.http.watching import until_disconnect

if TYPE_CHECKING:
    from hf_dynasor.serving.http.tracing import Tracer


def create_app(
    engine: Engine,
    model: ServedModel,
    settings: ServerSettings | None = None,
    *,
    store: JobStore | None = None,
    tracer: Tracer | None = None,
    clock: Clock | None = None,
    wall_time: Callable[[], float] = time.time,
) -> FastAPI:
    """An app over an engine.

    Args:
        engine: Where requests go; the caller closes it.
        model: What is served.
        settings: Limits and defaults.
        store: Where programs of `/v1/programs` are kept; by default in memory. The app closes it.
        tracer: Makes spans; without one there are none.
        clock: For limits and measurements.
        wall_time: Unix seconds, for the times in answers.
    """
    settings = settings or ServerSettings()
    clock = clock or MonotonicClock()
    jobs = store if store is not None else SqliteJobStore()
    responses = ResponseStore(
        max_kept=settings.max_responses_kept,
        max_characters=settings.max_response_characters,
        max_background=settings.max_waiting,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = app.state.server = make_state(engine, model, settings, clock)
        state.tracer = tracer
        app.state.jobs = JobRunner(
            jobs,
            partial(run_job, state, wall_time=wall_time),
            max_active=settings.max_programs,
            keep=settings.max_programs_kept,
            is_ready=lambda: state.is_ready,
        )
        app.state.jobs.start()
        yield
        await responses.stop()
        await app.state.jobs.stop()

    app = FastAPI(title="hf_dynasor", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.wall_time = wall_time
    _add_middleware(app, settings, clock, tracer)
    _add_error_handlers(app)
    _add_openai_routes(app)
    add_responses(app, responses)
    _add_token_routes(app)
    add_programs(app, jobs)
    add_operations(app)
    add_page(app)
    add_document(app, needs_key=bool(settings.api_keys))
    return app


def make_state(engine: Engine, model: ServedModel, settings: ServerSettings, clock: Clock) -> ServerState:
    """What handlers share; call it in the event loop, to which it belongs."""
    admission = Admission(max_running=settings.max_running, max_waiting=settings.max_waiting)
    metrics = Metrics(
        num_running=lambda: admission.num_running,
        num_waiting=lambda: admission.num_waiting,
        read_cache=make_cache_reader(engine),
        read_scheduling=make_scheduling_readers(engine),
    )
    return ServerState(
        settings=settings,
        engine=engine,
        model=model,
        clock=clock,
        admission=admission,
        pump=EventPump(asyncio.get_running_loop()),
        metrics=metrics,
    )


def _add_middleware(
    app: FastAPI, settings: ServerSettings, clock: Clock, tracer: Tracer | None = None
) -> None:
    """The last one added sees a request first."""
    app.add_middleware(HeadRequests)
    app.add_middleware(Gate, settings=settings, clock=clock)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )
    if tracer is not None:
        from hf_dynasor.serving.http.tracing import TraceRequests

        app.add_middleware(TraceRequests, tracer=tracer)
    app.add_middleware(RequestIds, clock=clock)


def _add_openai_routes(app: FastAPI) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: wire.ChatRequest, request: Request) -> Response:
        state = read_state(request)
        is_program = body.dynasor is not None and body.dynasor.names_program
        answer = answer_program_chat if is_program else answer_chat
        tenant = read_tenant(request)
        return await until_disconnect(request, answer(body, state, now=_now(request), tenant=tenant))

    @app.post("/v1/completions")
    async def completions(body: wire.CompletionRequest, request: Request) -> Response:
        state = read_state(request)
        answer = answer_completion(body, state, now=_now(request), tenant=read_tenant(request))
        return await until_disconnect(request, answer)

    @app.post("/v1/chat/completions/control")
    async def control(body: wire.ControlRequest, request: Request) -> dict[str, Any]:
        switch = read_state(request).switches.get(body.id)
        if switch is None:
            raise not_found(f"No completion {body.id!r} is thinking here.", param="id")
        switch.is_thrown = True
        return {"id": body.id, "action": body.action, "accepted": True}

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [_shape_model(read_state(request).model)]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str, request: Request) -> dict[str, Any]:
        model = read_state(request).model
        model.check_name(name)
        return _shape_model(model)


def _add_token_routes(app: FastAPI) -> None:
    @app.post("/tokenize")
    async def tokenize(body: wire.TokenizeRequest, request: Request) -> dict[str, Any]:
        return tokens.tokenize(body, read_state(request).model)

    @app.get("/tokenizer_info")
    async def tokenizer_info(request: Request) -> dict[str, Any]:
        return tokens.describe_tokenizer(read_state(request).model)

    @app.post("/detokenize")
    async def detokenize(body: wire.DetokenizeRequest, request: Request) -> dict[str, Any]:
        return tokens.detokenize(body, read_state(request).model)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def answer_api_error(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.to_dict(), error.status, headers=error.headers)

    @app.exception_handler(HFDynasorError)
    async def answer_own_error(_: Request, error: HFDynasorError) -> JSONResponse:
        translated = translate(error)
        return JSONResponse(translated.to_dict(), translated.status, headers=translated.headers)

    @app.exception_handler(RequestValidationError)
    async def answer_bad_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(describe_bad_body(error).to_dict(), 400)

    @app.exception_handler(HTTPException)
    async def answer_http_error(_: Request, error: HTTPException) -> JSONResponse:
        answer = ApiError(status=error.status_code, message=str(error.detail), code="http_error")
        return JSONResponse(answer.to_dict(), error.status_code, headers=error.headers)


def describe_bad_body(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, with the field's name."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in _drop_place(first["loc"]))
    if first["type"] == "extra_forbidden":
        message = f"The field {path!r} is not supported here. Remove it."
        return ApiError(status=400, message=message, param=path, code="unsupported_field")
    if path == "extra_body":
        message = "extra_body: its fields belong at the top level of the body. The openai client puts them there by itself."
        return ApiError(status=400, message=message, param=path, code="unsupported_field")
    if first["type"] == "json_invalid":
        return ApiError(status=400, message="The body is not JSON.", code="invalid_json")
    message = f"{path or 'body'}: {first['msg']}"
    return ApiError(status=400, message=message, param=path or None, code="invalid_value")


def _drop_place(path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return path[1:] if path and path[0] in ("body", "query", "path", "header") else path


def _shape_model(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "hf_dynasor",
        "max_model_len": model.max_length,
    }


def _now(request: Request) -> int:
    return int(request.app.state.wall_time())
