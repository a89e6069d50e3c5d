"""What callers may hand in, and the records that it becomes: pairs, responses, constitutions, modes, models.

A mistake is one line: DataError names the place in the list, ConfigError the nearest valid choice.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from rlaif.config.base import Section, mistakes
from rlaif.config.feedback import LabelSection
from rlaif.config.models import JudgeModel
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError, RlaifError, did_you_mean, few, shown
from rlaif.formats.given import given_of
from rlaif.formats.rows import SourceRow
from rlaif.jsonl import check_text
from rlaif.models.engine import ChatRequest, Engine, Reply
from rlaif.models.open import opened
from rlaif.models.scripted import ScriptedChatModel, said
from rlaif.records import Message, Messages, Pair, Prompt, Response, content_id, plain, prompt_of

Turns = str | Sequence[Mapping[str, str] | Message]
"""A text, or a conversation as messages: `{"role": ..., "content": ...}` or Message."""
PairLike = Pair | tuple[Turns, Turns, Turns] | Mapping[str, Any]
"""A Pair; (prompt, a, b); or a mapping with these keys and maybe `tags` and `given`."""
ResponseLike = Response | tuple[Turns, Turns] | Mapping[str, Any] | Sequence[Mapping[str, str] | Message]
"""A Response; (prompt, response); a mapping with these keys and maybe `tags` and `given`; or a conversation that ends
with the assistant's turn."""
ModelLike = str | Mapping[str, Any] | Section | Engine | Callable[..., Any]
"""See `open_engine`."""
S = TypeVar("S", bound=Section)
BACKENDS = ("local", "vllm", "scripted")
_MODEL: TypeAdapter[JudgeModel] = TypeAdapter(JudgeModel)
_MESSAGES: TypeAdapter[Messages] = TypeAdapter(Messages)
SMALLEST = 5e-324
"""Stands for a probability of 0: a log-probability is finite."""


def pair_of(pair: PairLike, where: str = "pair") -> Pair:
    """One pair as a record; `where` it stands, for the DataError."""
    if isinstance(pair, Pair):
        return pair
    prompt, a, b, *rest = _fields(pair, ("prompt", "a", "b"), where)
    found = Pair.of(_prompt(prompt, where, *rest), _response(a, f"{where}: a"), _response(b, f"{where}: b"))
    check_text(found, where)
    return found


def responses_of(responses: Iterable[ResponseLike]) -> list[tuple[Prompt, str]]:
    """Prompts and responses."""
    return [response_of(response, f"responses[{place}]") for place, response in enumerate(responses)]


def response_of(response: ResponseLike, where: str = "response") -> tuple[Prompt, str]:
    """One response and its prompt; `where` it stands, for the DataError."""
    if isinstance(response, Response):
        return prompt_of(response), response.text
    first = response[0] if isinstance(response, tuple) and response else None
    is_message = isinstance(first, Message) or (isinstance(first, Mapping) and "role" in first)
    if is_message or (isinstance(response, Sequence) and not isinstance(response, str | tuple)):
        messages = _messages(response, where)
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise DataError(f"{where}: a conversation must end with the assistant's turn, after a user's")
        return _prompt(messages[:-1], where), messages[-1].content
    prompt, text, *rest = _fields(response, ("prompt", "response"), where)
    return _prompt(prompt, where, *rest), _response(text, f"{where}: response")


def _fields(value: Any, names: Sequence[str], where: str) -> tuple[Any, ...]:
    """The values of these keys, or of a tuple in this order; then the tags, and what is given."""
    if isinstance(value, Mapping):
        for name in value:
            if name not in (known := (*names, "tags", "given")):
                raise DataError(f"{where}: no such key {shown(name)}{did_you_mean(str(name), known)}")
        if missing := [name for name in names if name not in value]:
            raise DataError(f"{where}: has no {missing[0]!r}; the keys are {', '.join(names)}")
        return (*(value[name] for name in names), tuple(value.get("tags", ())), value.get("given"))
    if not isinstance(value, tuple | list) or len(value) != len(names):
        raise DataError(f"{where}: must be ({', '.join(names)}) or a mapping with these keys (got {shown(value)})")
    return (*value, (), None)


def _messages(turns: Any, where: str) -> Messages:
    if isinstance(turns, str):
        return (Message(role="user", content=turns),)
    try:
        return _MESSAGES.validate_python(tuple(turns))
    except (ValidationError, TypeError):
        raise DataError(
            f"{where}: must be a text or messages of role (system, user, assistant) and content (got {shown(turns)})"
        ) from None


def _prompt(turns: Any, where: str, tags: Iterable[str] = (), given: Any = None) -> Prompt:
    messages = _messages(turns, where)
    if not messages or messages[-1].role != "user":
        raise DataError(f"{where}: a prompt must end with a user turn")
    asked, more = given_of(SourceRow(where, {"given": given}), messages)
    return Prompt.of(asked, tuple(tags), more)


def _response(turns: Any, where: str) -> str:
    if isinstance(turns, str):
        return turns
    messages = _messages(turns, where)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(f"{where}: a response is a text or the assistant's one turn")
    return messages[0].content


def constitution_of(constitution: str | os.PathLike[str] | Constitution) -> Constitution:
    """The constitution of a name, a path, or itself."""
    return constitution if isinstance(constitution, Constitution) else load_constitution(os.fspath(constitution))


def label_of(mode: str | Mapping[str, Any] | Section, knobs: Mapping[str, Any]) -> LabelSection:
    """The recipe section `label` with this mode and these knobs."""
    section = mode.model_dump() if isinstance(mode, Section) else {"kind": mode} if isinstance(mode, str) else mode
    return section_of(LabelSection, {"mode": section, **knobs}, "label")


def section_of(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """A section of these values. ConfigError, a line for each mistake, with the nearest valid name."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(few([f"{where}: {line}" for line in mistakes(error, dict(values), kind)])) from None


def model_of(model: str | Mapping[str, Any] | Section) -> JudgeModel:
    """The recipe section of a model that is named. ConfigError with the nearest backend."""
    if isinstance(model, str):
        values = _named(model)
    else:
        values = model.model_dump() if isinstance(model, Section) else dict(model)
    try:
        return _MODEL.validate_python(values)
    except ValidationError as error:
        raise ConfigError(few([f"model: {line}" for line in mistakes(error, values, JudgeModel)])) from None


def _named(name: str) -> dict[str, Any]:
    if name.startswith(("http://", "https://")):
        url, _, served = name.partition("#")
        if not served:
            raise ConfigError(f"model {name!r}: say which the server has, as http://host:8000/v1#Qwen/Qwen3-8B")
        return {"backend": "client", "model": served, "base_urls": [url]}
    backend, colon, rest = name.partition(":")
    if not colon or os.path.exists(name):
        return {"backend": "local", "model": name}
    if backend not in BACKENDS or not rest:
        raise ConfigError(f"model {name!r}: no backend {backend!r}{did_you_mean(backend, BACKENDS)}")
    return {"backend": backend, "model": rest}


@contextmanager
def open_engine(model: ModelLike) -> Iterator[Engine]:
    """The engine that writes a model's replies, closed at the end of the block.

    `model` is a name: `local:smollm2-135m` (or without a prefix), `vllm:Qwen/Qwen3-8B`, `scripted:module:function`,
    `http://host:8000/v1#NAME` of a server that runs; a model section of a recipe, as a mapping or as it is; an engine,
    which stays open; or a function of the messages (and, if it has two parameters, of the labels) that returns a text,
    a probability for each label, or a Reply. What a named model has answered before is taken from the reply cache.
    What a function raises at its first call ends the work: ConfigError with its place. Later it is that request's
    failure, and what was judged so far is kept.
    """
    if isinstance(model, str | Mapping | Section):
        config = model_of(model)
        with opened(config, content_id("api", os.getcwd())) as cached:
            yield cached
    elif hasattr(model, "stream") and not isinstance(model, type):
        if missing := [part for part in ("name", "revision") if not hasattr(model, part)]:
            raise ConfigError(f"model: an engine needs a {missing[0]!r}, which provenance records (got {shown(model)})")
        yield cast("Engine", model)
    elif callable(model):
        yield engine_of(model)
    else:
        raise ConfigError(f"model: must be a name, a section, an engine or a function (got {shown(model)})")


def engine_of(function: Callable[..., Any]) -> Engine:
    """The engine whose replies a function of the messages gives."""
    try:
        with_labels = len(inspect.signature(function).parameters) > 1
    except (TypeError, ValueError):  # a builtin that does not say
        with_labels = False

    call = lenient(function, lambda reason: Reply(error=reason))

    def answer(request: ChatRequest) -> Any:
        words = [plain(request.messages), request.labels] if with_labels else [plain(request.messages)]
        return as_reply(call(*words), request.labels)

    name = getattr(function, "__name__", type(function).__name__)
    engine = ScriptedChatModel(answer, name)
    engine.revision = ScriptedChatModel(cast("Any", function)).revision
    return engine


def lenient(function: Callable[..., Any], failed: Callable[[str], Any]) -> Callable[..., Any]:
    """The function: what it raises at its first call is a mistake and ends the work; later `failed` makes a value of
    the reason. An error of rlaif's own ends the work always."""
    has_answered = False

    def call(*given: Any) -> Any:
        nonlocal has_answered
        try:
            value = function(*given)
        except Exception as error:
            if not has_answered or isinstance(error, RlaifError):
                raise
            return failed(said(error))
        has_answered = True
        return value

    return call


def as_reply(value: Any, labels: Sequence[str]) -> Any:
    """A text or probabilities as a reply to a request with these labels; what is neither stays what it is.

    A text that is one of the labels is certain. Of another text, or of what is no probability, the reply has an error.
    """
    if not labels or isinstance(value, Reply):
        return value
    if isinstance(value, str):
        if value.strip() not in labels:
            return Reply(error=f"{shown(value)} is none of the labels {', '.join(labels)}")
        value = {label: float(label == value.strip()) for label in labels}
    if not isinstance(value, Mapping):
        return value
    try:
        found = {str(label): float(p) for label, p in value.items()}
    except (TypeError, ValueError):
        return Reply(error=f"{shown(value)} holds what is no number")
    if wrong := [label for label, p in found.items() if not 0 <= p <= 1]:
        return Reply(error=f"the probability of {wrong[0]} is {found[wrong[0]]:g}, which is not between 0 and 1")
    return Reply(label_logprobs={label: math.log(max(p, SMALLEST)) for label, p in found.items()})
