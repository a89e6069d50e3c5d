"""A model made of a Python function: for dry runs, for tests, and for judges that are code."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import FunctionType

from rlaif.errors import ConfigError, RlaifError, did_you_mean
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.records import content_id

Script = Callable[[ChatRequest], "Reply | str | dict[str, float]"]


class RequestFailed(Exception):
    """Raised inside a script to give one request an errored reply; its text becomes `Reply.error`."""


class ScriptedChatModel:
    """Answers each request with `function(request)`: a Reply, a text, or for labels their log-probabilities.

    An exception other than RequestFailed is a bug in the function: ConfigError with its place.
    """

    def __init__(self, function: Script, name: str = "scripted") -> None:
        self._function = function
        self.name = name
        self.revision = _source_hash(function) if inspect.isfunction(function) else "unknown"

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        """Answer one by one, in order."""
        replies = []
        for index, request in enumerate(requests):
            reply = self._answer(request)
            replies.append(reply)
            if on_replies is not None:
                on_replies([(index, reply)])
        return replies

    def _answer(self, request: ChatRequest) -> Reply:
        try:
            value = self._function(request)
            if isinstance(value, str):
                return Reply(text=value, completion_tokens=len(value.split()))
            if isinstance(value, dict):
                return Reply(label_logprobs=value)
            if isinstance(value, Reply):
                return value
        except RequestFailed as failure:
            return Reply(error=str(failure) or "the script refused")
        except RlaifError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"script {self.name}: {_said(error)}") from error
        raise ConfigError(f"script {self.name}: must return a Reply, a text or label log-probabilities (got {value!r})")

    def close(self) -> None:
        """Nothing to free."""


def from_path(path: str) -> ScriptedChatModel:
    """The model of `package.module:function`. Raises ConfigError for a path that names no function."""
    module_name, colon, function_name = path.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"scripted model '{path}': must be written package.module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look where the user works
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"scripted model '{path}': no module named '{error.name}'") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"scripted model '{path}': {module_name} cannot be imported: {_said(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"scripted model '{path}': {module_name} has no function '{function_name}'"
            f"{did_you_mean(function_name, own)}"
        )
    return ScriptedChatModel(function, name=path)


def _said(error: BaseException) -> str:
    """What it is, on one line, and where in the script it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


@lru_cache(maxsize=64)  # by the function, so that a file edited later does not change what is already loaded
def _source_hash(function: FunctionType) -> str:
    """A hash of the function's name and its whole module's source, helpers and constants of that file included.

    'unknown' where that does not say what it does: typed at a prompt, made at run time, or closed over values.
    """
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return "unknown"
    try:
        inspect.getsource(function)  # fails for a text that was evaluated, whose module is that of the caller
        source = inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError):
        return "unknown"
    return content_id(function.__qualname__, source)
