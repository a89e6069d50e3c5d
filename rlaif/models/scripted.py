"""A model made of a Python function: for dry runs, for tests, and for judges that are code."""

from __future__ import annotations

import importlib
import inspect
import os
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

from rlaif.digest import hash_path
from rlaif.errors import ConfigError, RlaifError, did_you_mean, one_line
from rlaif.models.engine import ChatRequest, Likelihood, Reply, as_text
from rlaif.models.files import module_files
from rlaif.models.reasoning import written
from rlaif.records import content_id

Script = Callable[[ChatRequest], "Reply | str | float | dict[str, float]"]


class RequestFailed(Exception):
    """Raised inside a script to give one request an errored reply; its text becomes `Reply.error`."""


class ScriptedChatModel:
    """Answers each request with `function(request)`: a Reply, a text, for labels their log-probabilities, for an
    `answer` its log-probability (its words then count as tokens).

    What it raises other than RequestFailed is a bug in the function: ConfigError with its place. A log-probability that
    is of no number's type gives an errored reply.
    """

    def __init__(self, function: Script, name: str = "scripted") -> None:
        self._function = function
        self.name = name
        self.revision = _source_hash(function) if inspect.isfunction(function) else "unknown"

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        """Answer one by one, in order."""
        for number, request in enumerate(requests):
            yield number, self._answer(request)

    def _answer(self, request: ChatRequest) -> Reply:
        try:
            value = self._function(request)
        except RequestFailed as failure:
            value = Reply(error=one_line(failure) if failure.args else "the script refused")
        except (RlaifError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit too: a judge must not end a run as if it were done
            raise ConfigError(f"script {self.name}: {said(error)}") from error
        if isinstance(value, str):
            value = Reply(**written(value, "stop"), completion_tokens=len(value.split()))
        elif isinstance(value, dict):
            value = _from_labels(value)
        elif request.answer is not None and isinstance(value, int | float) and not isinstance(value, bool):
            likely = Likelihood(logprob=value, end_logprob=0.0, tokens=len(request.answer.split()))
            value = Reply(likelihood=likely, prompt_tokens=likely.tokens)
        elif not isinstance(value, Reply):
            wanted = "a Reply, a text or label log-probabilities"
            raise ConfigError(f"script {self.name}: must return {wanted} (got {_shown(value)})")
        return as_text(value)

    def close(self) -> None:
        """Nothing to free."""


def from_path(path: str) -> ScriptedChatModel:
    """The model of `package.module:function`. Raises ConfigError for a path that names no function."""
    return ScriptedChatModel(load_function(path, "scripted model"), name=path)


def load_function(path: str, what: str) -> Callable[..., Any]:
    """The function of `package.module:function`. ConfigError, which says what it is for, where there is none."""
    module_name, colon, function_name = path.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"{what} '{path}': must be written package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look where the user works
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what} '{path}': no module named '{error.name}'") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(f"{what} '{path}': cannot be imported: {said(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"{what} '{path}': {module_name} has no function '{function_name}'{did_you_mean(function_name, own)}"
        )
    found: Callable[..., Any] = function
    return found


def _from_labels(values: dict[Any, Any]) -> Reply:
    """The reply with these log-probabilities, or why they are none. numpy's and torch's numbers are numbers."""
    found = {}
    for label, value in values.items():
        if type(label) is str and type(value) is float:  # nothing to find out
            found[label] = value
            continue
        try:
            if not isinstance(label, str):
                raise TypeError
            found[label] = as_number(value)
        except Exception:  # whatever their type does where a float is wanted
            return Reply(error=f"label {_shown(label)} has log-probability {_shown(value)}, which is no number")
    return Reply(label_logprobs=found)


def as_number(value: Any) -> float:
    """A value of a user's function, numpy's and torch's numbers included. Raises where it is none: a truth value and a
    text are not."""
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool | str | bytes | bytearray):
        raise TypeError
    return float(number)


def _shown(value: object) -> str:
    return " ".join(reprlib.repr(value).split())


def said(error: BaseException) -> str:
    """What was raised, and where in the user's files, on one line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in f.filename]
    # A syntax error says its place itself.
    known = frames and not isinstance(error, SyntaxError)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if known else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


@lru_cache(maxsize=64)  # by the function, so that a file edited later does not change what is already loaded
def _source_hash(function: FunctionType) -> str:
    """A hash of the function's name, its whole module's source, and the user's modules that this imports.

    'unknown' where that does not say what it does: typed at a prompt, made at run time, or closed over values.
    """
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return "unknown"
    try:
        inspect.getsource(function)  # fails for a text that was evaluated, whose module is that of the caller
        source = inspect.getsource(module := sys.modules[function.__module__])
    except (OSError, TypeError, KeyError):
        return "unknown"
    helpers = [file for file in module_files(function.__module__) if str(file) != module.__file__]
    return content_id(function.__qualname__, source, *(hash_path(file) for file in helpers))
