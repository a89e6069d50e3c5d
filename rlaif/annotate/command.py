"""`rlaif annotate`: from the command to a served page, and what is said at the end."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from rlaif.annotate.app import make_app
from rlaif.annotate.desk import Desk
from rlaif.annotate.guard import HOST, run_token
from rlaif.annotate.publish import publish
from rlaif.annotate.questions import Questions, read_questions
from rlaif.annotate.store import AnswerStore
from rlaif.config import Recipe, load_recipe
from rlaif.config.feedback import HumanLabels, MixedLabels
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.formats import Annotations
from rlaif.run_folder import Run

PORT = 8765
PORTS_TRIED = 20
LAST_REQUESTS_S = 2


def annotate_command(
    folder: Path,
    port: int | None = None,
    pairs: Path | None = None,
    per_pair: int = 1,
    gold: Path | None = None,
    principles: bool = True,
) -> None:
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
        _say_farewell(run)


@contextlib.contextmanager
def _only_server(run: Run) -> Iterator[None]:
    lock = FileLock(run.folder / ".annotate.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(f"{run.folder}: another `rlaif annotate` serves this run already") from None
    try:
        yield
    finally:
        lock.release()


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
    import uvicorn  # noqa: PLC0415 (an extra; and slow to import)

    token, port = run_token(run.folder / ".annotate-token"), listening.getsockname()[1]
    app = make_app(desk, questions, run.folder.resolve().name, token, port)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=LAST_REQUESTS_S
    )
    also = f" and {len(questions.gold)} gold questions" if questions.gold else ""
    say(f"{len(questions.pairs)} pairs{also}; answers are kept in {run.answers}")
    say(f"open http://{HOST}:{port}/?token={token}")
    say("Ctrl-C ends it; nothing is lost, and the same command goes on")
    # uvicorn ends on either signal and then raises it once more, for whoever is above.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_farewell(run: Run) -> None:
    done = publish(run)
    if not done.answers:
        say("no answers yet")
        return
    people = "1 annotator" if done.annotators == 1 else f"{done.annotators} annotators"
    edits = f", {done.edits} with an edit" if done.edits else ""
    answers = "1 answer" if done.answers == 1 else f"{done.answers} answers"
    say(f"{answers} of {people}{edits} in {run.annotations}")
    recipe = load_recipe(str(run.recipe)) if run.recipe.exists() else None
    here = shlex.quote(str(run.folder))
    if recipe and _reads_answers(recipe):
        say(f"next: rlaif run {shlex.quote(str(run.recipe))} --out {here}")
    else:
        say(f"next: rlaif run RECIPE preferences.labels.human_data='[{{kind: annotations, run: {here}}}]' --out FOLDER")


def _reads_answers(recipe: Recipe) -> bool:
    labels = recipe.preferences.labels
    human = labels.human_data if isinstance(labels, HumanLabels | MixedLabels) else ()
    return any(isinstance(source, Annotations) and source.run is None for source in human)
