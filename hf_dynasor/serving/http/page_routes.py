"""The page at `/`: the files of the package, with a policy that lets the browser load nothing else."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

from hf_dynasor.serving.http.errors import not_found

_TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Add `/` and the files that it loads."""

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _read("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _read(name)


def _read(name: str) -> Response:
    if name not in _TYPES:
        raise not_found(f"There is no file {name!r}.")
    content = (files("hf_dynasor.serving.http") / "page" / name).read_bytes()
    return Response(content, media_type=_TYPES[name], headers=_HEADERS)
