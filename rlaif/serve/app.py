"""The service as one application: the protocols, what every service has, and how an error is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlaif import __version__
from rlaif.annotate.guard import App
from rlaif.console import say
from rlaif.errors import DataError, ModelError, NoAnswer, RlaifError, one_line, without_secrets
from rlaif.serve.access import Access, ServiceGuard
from rlaif.serve.batching import QueueFull
from rlaif.serve.protocols import routes
from rlaif.serve.records import NotRecorded
from rlaif.serve.service import NoScore, Service, TooSlow

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI, Request, Response

STATUS: dict[type[Exception], int] = {
    DataError: 422,
    NoAnswer: 500,
    NoScore: 500,
    QueueFull: 503,
    ModelError: 503,
    NotRecorded: 503,
    TooSlow: 504,
    RlaifError: 500,
}
"""A request at fault is 4xx, which nobody repeats; no score is 5xx, whoever is at fault."""


def make_app(service: Service, access: Access, more: Sequence[APIRouter] = ()) -> App:
    """The guarded application. `more` are further addresses."""
    from fastapi import FastAPI  # noqa: PLC0415 (an extra; and slow to import)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in (routes(service), service.meter.routes(), *more):
        app.include_router(router)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "target": service.target.name, "version": __version__}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": service.target.name, "object": "model", "owned_by": "rlaif"}]}

    say_errors(app)
    return ServiceGuard(app, access)


def say_errors(app: FastAPI) -> None:
    """Every error as JSON with its one line. What is no error of ours is said on the screen too."""
    from fastapi.exceptions import RequestValidationError  # noqa: PLC0415
    from fastapi.responses import JSONResponse  # noqa: PLC0415
    from starlette.exceptions import HTTPException  # noqa: PLC0415

    def reply(status: int, message: str) -> Response:
        headers = {"retry-after": "1"} if status == 503 else {}
        error = {"message": message, "type": "no_score" if status >= 500 else "invalid_request_error", "code": status}
        return JSONResponse({"error": error, "detail": message}, status, headers)

    async def known(request: Request, error: Exception) -> Response:
        kind = next(kind for kind in type(error).__mro__ if kind in STATUS)
        return reply(STATUS[kind], without_secrets(str(error)).partition("\n")[0])

    async def not_understood(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if "json" not in request.headers.get("content-type", ""):
            return reply(422, "body: send it as JSON, with the header content-type: application/json")
        problem = error.errors()[0]  # without the value: it may be what no reply could hold
        return reply(422, f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}")

    async def not_served(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return reply(error.status_code, f"{request.method} {request.url.path}: {error.detail}")

    async def unknown(request: Request, error: Exception) -> Response:
        say(f"{request.url.path}: {type(error).__name__}: {one_line(error)}")
        return reply(500, f"{type(error).__name__}: {one_line(error)}")

    for kind in STATUS:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, not_understood)
    app.add_exception_handler(HTTPException, not_served)
    app.add_exception_handler(Exception, unknown)
