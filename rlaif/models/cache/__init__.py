"""What was asked once is not asked again. Read `model.py` first."""

from rlaif.models.cache.model import CachedModel, shared
from rlaif.models.cache.store import ModelReplies, PruneResult, cache_folder, cache_path, cache_summary, prune

__all__ = [
    "CachedModel",
    "ModelReplies",
    "PruneResult",
    "cache_folder",
    "cache_path",
    "cache_summary",
    "prune",
    "shared",
]
