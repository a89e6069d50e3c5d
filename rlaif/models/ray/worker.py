"""What runs on the cluster: an engine, and work that is done with it; and how requests and replies travel."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from rlaif import __version__
from rlaif.config.models import ClientModel, LocalModel, ScriptedModel, VllmModel
from rlaif.errors import RlaifError
from rlaif.models.engine import ChatRequest, Engine, InLots, Lot, Reply, ask
from rlaif.models.open import open_model
from rlaif.records import Message, Record

M = TypeVar("M", bound=Record)
REPLY = vars(Reply())
FIELDS = [name for name in ChatRequest.model_fields if name != "messages"]
ASKED = itemgetter(*FIELDS)


class Opened(NamedTuple):
    """What a worker says of its engine."""

    name: str
    revision: str
    window: int | None
    rlaif: str


class Worker:
    """An actor. What its engine raises is handed back as a value: the driver says it on one line."""

    def __init__(self, config: LocalModel | VllmModel | ClientModel | ScriptedModel) -> None:
        self._config = config
        self._engine: Engine
        self._first = Lock()
        self._answered = False
        self._work: tuple[bytes, Callable[[Engine, Any], Any]] | None = None
        """The last one: it need not be unpacked for each item."""

    def open(self) -> Opened | RlaifError:
        """Open the engine."""
        try:
            self._engine = engine = open_model(self._config)
        except RlaifError as error:
            return error
        return Opened(engine.name, engine.revision, getattr(engine, "window", None), __version__)

    def do(self, work: bytes, item: bytes) -> bytes | RlaifError:
        """What the work makes of one item. Two may be under way at once, when the engine has shown that it can
        answer."""
        if self._answered:
            return self._do(work, item)
        with self._first:
            return self._do(work, item)

    def _do(self, work: bytes, item: bytes) -> bytes | RlaifError:
        if self._work is None or self._work[0] != work:
            self._work = work, pickle.loads(work)
        try:
            found = self._work[1](self._engine, pickle.loads(item))
        except RlaifError as error:
            return error
        self._answered = True
        return pickle.dumps(found, 5)

    def share(self, window: bytes, first: int, of: int) -> Iterator[bytes | RlaifError]:
        """Of the lots of a whole window those from `first` on, every `of`th, as they are made."""
        assert isinstance(self._engine, InLots)
        try:
            for make in islice(self._engine.unmade(list(enumerate(unpacked(window)))), first, None, of):
                yield packed_replies(make())
        except RlaifError as error:
            yield error

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.close()


def answered(engine: Engine, window: bytes) -> bytes:
    """The replies to a window."""
    return packed_replies(list(enumerate(ask(engine, list(unpacked(window))))))


def packed(requests: Iterable[ChatRequest]) -> bytes:
    """The requests as plain values, the text that they share with the one before only once: it costs little to send."""
    found, shared = [], ""
    for request in requests:
        *before, last = request.messages
        if not last.content.startswith(shared) or len(shared) != request.shared_prefix:
            shared = last.content[: request.shared_prefix]
        said = [(m.role, m.content) for m in before]
        found.append((said, last.role, shared, last.content[len(shared) :], ASKED(vars(request))))
    return pickle.dumps(found, 5)


def unpacked(window: bytes) -> Iterator[ChatRequest]:
    """The requests that were packed."""
    for said, role, shared, rest, asked in pickle.loads(window):
        messages = tuple(_made(Message, {"role": r, "content": c}) for r, c in (*said, (role, shared + rest)))
        yield _made(ChatRequest, {"messages": messages, **dict(zip(FIELDS, asked, strict=True))})


def packed_replies(replies: Lot) -> bytes:
    """Numbers and replies, of each what it says."""
    return pickle.dumps([(n, {k: v for k, v in vars(r).items() if v != REPLY[k]}) for n, r in replies], 5)


def unpacked_replies(lot: bytes, first: int) -> list[tuple[int, Reply]]:
    """The replies that were packed; `first` is the number of the window's first request."""
    return [(first + place, _made(Reply, REPLY | values)) for place, values in pickle.loads(lot)]


def _made(kind: type[M], values: dict[str, Any]) -> M:
    """A record of values that were checked on the other side, at a third of what checking them again would take."""
    one = kind.__new__(kind)
    put = object.__setattr__
    put(one, "__dict__", values)
    put(one, "__pydantic_fields_set__", set(values))
    put(one, "__pydantic_extra__", None)
    put(one, "__pydantic_private__", None)
    return one
