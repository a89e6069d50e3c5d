"""From a recipe's model section to a model, importing only the backend that it names."""
# ruff: noqa: PLC0415  (a recipe without torch must not wait for torch)

from __future__ import annotations

from typing import assert_never

from rlaif.config.models import ClientModel, JudgeModel, LocalModel, RayModel, ScriptedModel, VllmModel
from rlaif.models.engine import Engine


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
