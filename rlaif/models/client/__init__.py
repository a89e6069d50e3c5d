"""A model behind one or several OpenAI-compatible servers. Read `model.py` first."""

from rlaif.models.client.model import HttpChatModel

__all__ = ["HttpChatModel"]
