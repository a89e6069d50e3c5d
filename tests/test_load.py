"""Loading: a padding id that is never the end token, and models whose logits rlaif would misread are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlaif.models import embedded
from rlaif.models.local import load
from rlaif.models.local.load import load_language_model, load_tokenizer
from rlaif.testing import save_tiny, tiny_tokenizer


def test_padding_is_a_spare_special_token_and_never_the_end_token(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token_id not in {None, tokenizer.eos_token_id}


def test_a_model_folder_is_read_for_its_revision_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(name: str, revision: str | None = None) -> embedded.ResolvedModel:
        asked.append(name)
        return embedded.resolve_model(name, revision)

    monkeypatch.setattr(load, "resolve_model", resolve)
    load_language_model(save_tiny(tmp_path / "model"), None, torch.float32)
    assert len(asked) == 1
