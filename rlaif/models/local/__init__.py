"""A transformers model in this process as a ChatModel: batched, left-padded, on CPU or GPU."""

from rlaif.models.local.model import LocalChatModel

__all__ = ["LocalChatModel"]
