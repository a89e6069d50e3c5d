"""From a recipe's model section to a model, importing only the backend that it names."""
# ruff: noqa: PLC0415  (a recipe without torch must not wait for torch)

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import assert_never

from rlaif.config.models import ClientModel, JudgeModel, LocalModel, RayModel, ScriptedModel, VllmModel
from rlaif.console import say
from rlaif.models.cache import CachedModel, shared
from rlaif.models.embedded import check_name
from rlaif.models.engine import Engine


@contextmanager
def opened(config: JudgeModel, scope: str) -> Iterator[CachedModel]:
    """The model behind the reply cache that all runs share, closed at the end.

    Replies of a model of unknown revision are this scope's and this config's alone.
    A server needs the GPU memory that models of this process, closed or trained before, still hold.
    """
    if "torch" in sys.modules:
        from rlaif.models.local.load import free_memory

        free_memory()
    with closing(shared(open_model(config), config, scope)) as cached:
        yield cached


def check_model(config: JudgeModel) -> None:
    """ModelError or ConfigError for what opening it would not find: a name, a library, a function, a key. Fetches
    nothing. What a server, or a worker of Ray's, has is theirs to say; a server that accepts no connection yet is said
    on the screen."""
    match config:
        case LocalModel():
            check_name(config.model, config.revision)
        case VllmModel():
            from rlaif.models.server import require_vllm

            require_vllm()
            check_name(config.model, config.revision)
        case ScriptedModel():
            open_model(config)
        case ClientModel():
            from rlaif.models.client.endpoint import silent

            for url in silent(config):
                say(f"  no server at {url} yet: it must answer when {config.model} is asked")
        case RayModel():
            pass


def open_model(config: JudgeModel) -> Engine:
    """The model, ready to chat; the caller closes it. Raises ModelError or ConfigError where none is."""
    match config:
        case LocalModel():
            from rlaif.models.local.model import LocalChatModel

            return LocalChatModel(config)
        case VllmModel():
            from rlaif.models.server import VllmChatModel

            return VllmChatModel(config)
        case ClientModel():
            from rlaif.models.client import HttpChatModel

            return HttpChatModel(config)
        case ScriptedModel():
            from rlaif.models.scripted import from_path

            return from_path(config.model)
        case RayModel():
            from rlaif.models.ray.model import RayChatModel

            return RayChatModel(config)
        case _:
            assert_never(config)
