"""The addresses behind the annotation page. What they do is `desk.py`'s; who may call them is `guard.py`'s.

    GET  /               the page and its files, which hold no data
    GET  /api/session    the run's title, principles, names of annotators, and the token that writes must repeat
    POST /api/work       what an annotator is to do now
    POST /api/answers    one answer, kept before the reply is sent; then as /api/work
    POST /api/undo       take one back; then as /api/work

Sending an answer or an undo twice does no harm: the page sends until it hears that it was kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.annotate.desk import Assignment, Desk
from rlaif.annotate.guard import CSRF_HEADER, AccessGuard, App, derived
from rlaif.annotate.questions import Questions, wording
from rlaif.annotate.store import Annotator, AnswerId, PageAnswer
from rlaif.console import say
from rlaif.errors import DataError
from rlaif.records import Record

if TYPE_CHECKING:
    from fastapi import Request, Response

PAGE = Path(__file__).parent / "page"


class AssignmentRequest(Record):
    """Whose work is asked for."""

    annotator: Annotator


class Undo(Record):
    """Which answer is taken back."""

    annotator: Annotator
    answer_id: AnswerId


def make_app(desk: Desk, questions: Questions, title: str, token: str, port: int) -> App:
    """The guarded application, to be served on this port of 127.0.0.1 by one thread."""
    from fastapi import FastAPI  # noqa: PLC0415 (an extra; and slow to import)
    from fastapi.exceptions import RequestValidationError  # noqa: PLC0415
    from fastapi.responses import JSONResponse  # noqa: PLC0415
    from fastapi.staticfiles import StaticFiles  # noqa: PLC0415

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    # All are `async` and wait for nothing: so they run one after another, and no two are given the same pair.

    @app.get("/api/session")
    async def session() -> dict[str, Any]:
        return {
            "title": title,
            "key": derived(token, "storage"),
            "csrf": {"header": CSRF_HEADER, "token": derived(token, "csrf")},
            "principles": [{"id": principle.id, "text": wording(principle)} for principle in questions.principles],
            "annotators": desk.annotators(),
        }

    @app.post("/api/work")
    async def work(who: AssignmentRequest) -> Assignment:
        return desk.work(who.annotator)

    @app.post("/api/answers")
    async def answers(given: PageAnswer) -> Assignment:
        return desk.answer(given)

    @app.post("/api/undo")
    async def undo(undo: Undo) -> Assignment:
        return desk.undo(undo.annotator, undo.answer_id)

    @app.exception_handler(DataError)
    async def not_kept(request: Request, error: Exception) -> Response:
        say(f"not saved: {error}")  # the page keeps it, and goes on sending
        return JSONResponse({"detail": str(error)}, status_code=503)

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        # Without the value: it may be what no reply could hold.
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        return JSONResponse({"detail": f"{where}: {problem['msg']}"}, status_code=422)

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return AccessGuard(app, token, port)
