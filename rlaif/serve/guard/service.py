"""A guard as a service: what is in flight is decided together, and every decision is on disk before it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rlaif.annotate.guard import App, run_token
from rlaif.annotate.store import AnswerStore, ServedReply
from rlaif.api.inputs import model_of
from rlaif.config.base import Section, written
from rlaif.config.models import ClientModel, JudgeModel, VllmModel
from rlaif.console import say
from rlaif.errors import DataError, ModelError, refuse_given
from rlaif.jsonl import write_atomic
from rlaif.models.decoded import decoded
from rlaif.run_folder import Run
from rlaif.serve.access import Access, ServiceGuard
from rlaif.serve.app import say_errors
from rlaif.serve.batching import Batcher
from rlaif.serve.guard.chat import chat_routes
from rlaif.serve.guard.config import GuardSection, dump_guard, load_guard
from rlaif.serve.guard.decide import Guard
from rlaif.serve.guard.decision import Decision, Inquiry
from rlaif.serve.guard.feedback import feedback_routes, keep_feedback
from rlaif.serve.metrics import Meter
from rlaif.serve.opening import Wish, ready_engine
from rlaif.serve.records import ServiceLog
from rlaif.serve.server import Address, access_of, listen, needs_extra, run
from rlaif.serve.service import OUTCOMES, Limits, TooSlow
from rlaif.serve.target import TOGETHER

T = TypeVar("T")


class GuardService:
    """A guard, asked by many at once."""

    def __init__(self, guard: Guard, name: str, log: ServiceLog, limits: Limits, workers: int = 1) -> None:
        """`name` is the policy's, as clients call it; `workers` as many as may ask the models at once."""
        self.guard, self.name, self._log, self._limits = guard, name, log, limits
        self.meter = Meter(OUTCOMES, lambda: self._batcher.waiting)
        what = "What was decided, and the principle or the rule of the input that decided."
        self._decisions = self.meter.counter("rlaif_guard_decisions", what, "action", "principle")
        sizes = limits.batch, limits.waiting, self.meter.batch
        self._batcher: Batcher[Inquiry, Decision] = Batcher(guard.decide, workers, *sizes)
        self._store = AnswerStore(Run(log.folder).answers) if guard.section.feedback else None
        self._writing = threading.Lock()
        self._replies, self._dropped = 0, self.meter.counter("rlaif_replies_dropped", "Replies that were the oldest.")
        if self._store is not None:
            self._prune(self._store)

    async def answer(self, asked: Inquiry) -> Decision:
        """The decision, which is on disk. TooSlow, QueueFull and ModelError where there is none."""
        with self.meter.counted("chat"):
            try:
                (decision,) = await asyncio.wait_for(self._batcher.ask([asked]), self._limits.timeout_s)
            except TimeoutError:
                raise TooSlow(f"no answer within {self._limits.timeout_s:g} s") from None
            await self._written(lambda: self._keep(decision))
        self._decisions.labels(decision.action, decision.principle or "").inc()
        return decision

    async def feedback(self, body: bytes) -> str:
        """The id of the feedback, which is on disk."""
        store = self._store
        assert store is not None, "the address is not served"
        with self.meter.counted("feedback"):
            return await self._written(lambda: keep_feedback(store, body))

    def app(self, access: Access, token: str | None) -> App:
        """The guarded application; `token` is what feedback needs where `access` asks for none."""
        from fastapi import FastAPI  # noqa: PLC0415 (an extra; and slow to import)

        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.include_router(self.meter.routes())
        app.include_router(chat_routes(self.answer, self.name, self.guard.section.input.max_tokens))
        if self._store is not None:
            app.include_router(feedback_routes(self.feedback, None if access.token else token))

        @app.get("/health")
        async def health() -> dict[str, Any]:
            constitution = self.guard.constitution
            return {"status": "ok", "policy": self.name, "constitution": f"{constitution.id}@{constitution.version}"}

        say_errors(app)
        return ServiceGuard(app, access)

    def close(self) -> None:
        """Begin nothing more, and free what is held."""
        self._batcher.close()
        with self._writing:
            if self._store is not None:
                self._store.close()

    async def _written(self, write: Callable[[], T]) -> T:
        """One at a time, in a thread: a disk takes its time, and requests go on; also where the client has gone."""

        def alone() -> T:
            with self._writing:
                return write()

        return await asyncio.to_thread(alone)

    def _keep(self, decision: Decision) -> None:
        try:
            self._log.write([decision])
            if self._store is not None and decision.text is not None:
                self._store.keep(decision.id, "reply", ServedReply(prompt=decision.prompt, text=decision.text))
                self._replies += 1
                self._prune(self._store)
        except DataError as error:
            raise ModelError(str(error)) from None  # not the request's fault, and another try may be answered

    def _prune(self, store: AnswerStore) -> None:
        """Now and then, as it takes time."""
        most = self.guard.section.keep_replies
        if self._replies % max(1, most // 100) == 0 and (dropped := store.prune(most)):
            self._dropped.inc(dropped)
            say(f"{dropped:,} of the oldest replies are no longer kept: keep_replies is {most:,}")


class _Place(Section):
    """A place for a policy, as a recipe has it."""

    policy: JudgeModel


def policy_of(given: str) -> JudgeModel:
    """What `--guard` names: a run, whose policy it is; a model as the API names one; or a section of a recipe, as
    `{backend: client, model: x, base_urls: [...], api_key_env: KEY}`."""
    if given.lstrip().startswith("{"):
        section: JudgeModel = written(given, _Place, "--guard")
        return section
    trained = Run(Path(given).expanduser()).policy
    return model_of(str(trained) if trained.is_dir() else given)


@contextlib.contextmanager
def open_guard(section: GuardSection, policy: JudgeModel) -> Iterator[tuple[Guard, int]]:
    """The guard, its models open, and how many may ask them at once. Nothing that users say goes to the reply cache."""
    configs = [policy, *([section.judge] if section.judge else [])]
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(contextlib.closing(ready_engine(config))) for config in configs]
        behind = [config.concurrency for config in configs if isinstance(config, ClientModel | VllmModel)]
        workers = min(TOGETHER, *behind) if len(behind) == len(configs) else 1
        yield Guard(section, decoded(engines[0], policy), engines[1] if section.judge else None), workers


def serve_guard(wish: Wish, policy: str, folder: Path, address: Address, limits: Limits) -> None:
    """Serve the policy behind the guard of these words until Ctrl-C or SIGTERM; decisions and feedback lie in `folder`.

    ConfigError, in one line, for what cannot be served.
    """
    needs_extra()
    scoring = {"--run": wish.run, "--template": wish.template}
    refuse_given(scoring, "not with --guard, which scores nothing for trainers")
    mode = [] if wish.mode is None else [f"mode.kind={wish.mode}"]
    section, config = load_guard(wish.name, [*mode, *wish.overrides], wish.judge), policy_of(policy)
    if section.judge is None:
        refuse_given({"--mode": wish.mode}, f"{wish.name} has no judge; name one with --judge")
    with contextlib.closing(ServiceLog(folder)) as log, contextlib.closing(listen(address)) as listening:
        access = access_of(address, folder)
        say(f"opening {config.model} ...")
        with open_guard(section, config) as (guard, workers):
            name = Path(config.model).name if Path(config.model).is_dir() else config.model
            if idle := [p.id for p in guard.constitution.principles if p.id not in guard.applied]:
                say(f"principles that refuse nothing here: {', '.join(idle)}")
            token = run_token(folder / ".token") if section.feedback else None
            if token and access.token is None:
                say(f"feedback needs the token in {folder / '.token'}")
            write_atomic(folder / f"guard-{guard.hash}.yaml", dump_guard(section).encode())
            with contextlib.closing(GuardService(guard, name, log, limits, workers)) as service:
                say(f"{name} behind {guard.constitution.id}: {log.path}")
                run(service.app(access, token), listening, access)
