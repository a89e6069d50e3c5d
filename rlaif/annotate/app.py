"""The server of the annotation page. What its addresses do is `desk.py`'s; who may call them is `guard.py`'s.

    GET  /               the page and its files, which hold no data
    GET  /api/session    the run's title, names of annotators, and the token that writes must repeat
    POST /api/work       what an annotator is to do now
    POST /api/answers    one answer, kept before the reply is sent; then as /api/work
    POST /api/undo       take one back; then as /api/work

Sending an answer or an undo twice does no harm: the page sends until it hears that it was kept.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rlaif.annotate.desk import Assignment, Desk, Questions, read_questions
from rlaif.annotate.guard import CSRF_HEADER, HOST, AccessGuard, App, derived, run_token
from rlaif.annotate.publish import Publication, publish
from rlaif.annotate.store import Annotator, AnswerId, AnswerStore, PageAnswer
from rlaif.console import say
from rlaif.errors import ConfigError, DataError
from rlaif.records import Record
from rlaif.run_folder import Run

if TYPE_CHECKING:
    from fastapi import Request, Response

PAGE = Path(__file__).parent / "page"
PORT = 8765
PORTS_TRIED = 20
LAST_REQUESTS_S = 2


class AssignmentRequest(Record):
    """Whose work is asked for."""

    annotator: Annotator


class Undo(Record):
    """Which answer is taken back."""

    annotator: Annotator
    answer_id: AnswerId


def make_app(desk: Desk, title: str, token: str, port: int) -> App:
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


def serve_page(
    folder: Path,
    port: int | None = None,
    pairs: Path | None = None,
    per_pair: int = 1,
    gold: Path | None = None,
    principles: bool = True,
) -> Publication:
    """Serve the page of this run until Ctrl-C, then publish the answers. `port` none: 8765, or the next free one.

    ConfigError, in one line, where FastAPI is missing, the run is none, there is nothing to ask, the port is taken or
    another server works on the run.
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise ConfigError('annotate: needs FastAPI and uvicorn; install them with: pip install "rlaif[annotate]"')
    if per_pair < 1:
        raise ConfigError(f"--per-pair: at least 1 (got {per_pair})")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such run folder")
    run = Run(folder)
    with _only_server(run):
        questions = read_questions(run, pairs, gold, principles)
        publish(run)  # what a server that was killed had not come to
        with contextlib.closing(AnswerStore(run.answers)) as store, contextlib.closing(_listen(port)) as listening:
            _serve(run, Desk(store, questions, per_pair), questions, listening)
        return publish(run)


@contextlib.contextmanager
def _only_server(run: Run) -> Iterator[None]:
    try:
        held = FileLock(run.folder / ".annotate.lock").acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"{run.folder}: another `rlaif annotate` serves this run already") from None
    with held:
        yield


def _listen(port: int | None) -> socket.socket:
    """A socket of 127.0.0.1 on this port, or on the first free one from 8765 on."""
    for candidate in range(PORT, PORT + PORTS_TRIED) if port is None else [port]:
        listening = socket.socket()
        # A restarted server must get its port back although connections of the last one linger.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, candidate))
            listening.listen()
        except (OSError, OverflowError) as error:
            listening.close()
            refused = error
            continue
        return listening
    tried = f"{PORT} to {PORT + PORTS_TRIED - 1}" if port is None else port
    raise ConfigError(f"--port: cannot listen on {tried}: {getattr(refused, 'strerror', None) or refused}")


def _serve(run: Run, desk: Desk, questions: Questions, listening: socket.socket) -> None:
    token, port = run_token(run.folder / ".annotate-token"), listening.getsockname()[1]
    app = make_app(desk, run.folder.resolve().name, token, port)
    also = f" and {len(questions.gold)} gold questions" if questions.gold else ""
    say(f"{len(questions.pairs)} pairs{also}; answers are kept in {run.answers}")
    say(f"open http://{HOST}:{port}/?token={token}")
    say("Ctrl-C ends it; nothing is lost, and the same command goes on")
    run_until_stopped(app, listening, LAST_REQUESTS_S)


def run_until_stopped(app: App, listening: socket.socket, last_requests_s: int) -> None:
    """Serve until Ctrl-C or SIGTERM; what is under way has so many seconds to end."""
    import uvicorn  # noqa: PLC0415 (an extra; and slow to import)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=last_requests_s
    )
    # uvicorn ends on either signal and then raises it once more, for whoever is above.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
