"""The routes of `/v1/responses`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from hf_dynasor.serving.http.operations import read_state
from hf_dynasor.serving.http.responses import answer_response, cancel
from hf_dynasor.serving.http.responses_store import Kept, ResponseStore
from hf_dynasor.serving.http.responses_wire import ResponseRequest
from hf_dynasor.serving.http.terms import read_tenant
from hf_dynasor.serving.http.watching import until_disconnect


def add_responses(app: FastAPI, store: ResponseStore) -> None:
    """Add the routes; the app's lifespan stops the store."""

    @app.post("/v1/responses")
    async def create_response(body: ResponseRequest, request: Request) -> Response:
        """One answer: whole, streamed with `stream`, or later with `background`."""
        now = int(request.app.state.wall_time())
        answer = answer_response(
            body,
            read_state(request),
            store,
            owner=_name_caller(request),
            now=now,
            tenant=read_tenant(request),
        )
        return await until_disconnect(request, answer)

    @app.get("/v1/responses/{response_id}")
    async def get_response(response_id: str, request: Request) -> dict[str, Any]:
        """A response that is kept."""
        return _find(store, response_id, request).row

    @app.get("/v1/responses/{response_id}/input_items")
    async def list_input_items(response_id: str, request: Request) -> dict[str, Any]:
        """What it was asked, the first item first."""
        items = _find(store, response_id, request).input_items
        ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
        return {"object": "list", "data": items, "has_more": False} | ends

    @app.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(response_id: str, request: Request) -> dict[str, Any]:
        """End one that runs in the background."""
        return await cancel(_find(store, response_id, request))

    @app.delete("/v1/responses/{response_id}")
    async def delete_response(response_id: str, request: Request) -> dict[str, Any]:
        """Forget it, and end it where it still runs."""
        _find(store, response_id, request)
        store.forget(response_id)
        return {"id": response_id, "object": "response", "deleted": True}


def _find(store: ResponseStore, response_id: str, request: Request) -> Kept:
    return store.find(response_id, _name_caller(request))


def _name_caller(request: Request) -> str:
    """Whose request it is: the key's place, or nothing on a server without keys."""
    return str(getattr(request.state, "caller", ""))
