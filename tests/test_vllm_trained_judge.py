"""A trained judge's folder behind a real vLLM server on the CPU: the same labels as in this process."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rlaif.audits.judge_training import worth
from rlaif.audits.judge_training.command import train_command
from rlaif.audits.judge_training.labels import read_labels
from rlaif.config.models import JudgeModel, LocalModel, VllmModel
from rlaif.constitution import load_constitution
from rlaif.feedback.judge import JudgeResult
from rlaif.models.open import open_model
from tests.learning_judge import recipe_of, rows, write

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SHAPE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32: vLLM on a CPU has none of 8."""


def test_served_by_vllm_it_judges_as_in_this_process(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "compare", "judge_training.epochs=5", **SHAPE)
    gold = write(tmp_path / "gold.jsonl", rows(120))
    vllm = VllmModel(model=recipe.judge.model, dtype="float32", max_model_len=1024)
    result = train_command(recipe.model_copy(update={"judge": vllm}), [gold], out=tmp_path / "judge")
    assert result.folder is not None, "a judge that vLLM will serve is trained in this process"
    constitution = load_constitution(recipe.constitution)
    labels = read_labels([write(tmp_path / "fresh.jsonl", rows(30, seed=5))], constitution).labels

    def judged(config: JudgeModel) -> JudgeResult:
        model = open_model(config)
        try:
            return worth.ask(lambda _: nullcontext(model), labels, constitution, recipe)
        finally:
            model.close()

    here = judged(LocalModel(model=str(result.folder), dtype="float32"))
    served = judged(vllm.model_copy(update={"model": str(result.folder)}))
    assert len(here.judgments) == 30
    assert {j.pair.id: j.p_a for j in served.judgments} == pytest.approx(
        {j.pair.id: j.p_a for j in here.judgments}, abs=0.02
    )
    assert worth.agreement_with(labels, served).share > 0.9
