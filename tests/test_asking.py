"""The parts of benchmarks/asking.py share no prompt, and a study on them holds out what it was audited on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import asking
from rlaif.audits.gold import read_gold
from rlaif.config.load import load_recipe
from rlaif.feedback.prompts import read_prompts
from rlaif.records import Message, Pair, Prompt


def test_a_study_holds_out_the_part_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PART", 5)
    prompts = [Prompt.of((Message(role="user", content=f"Question {number}?"),)) for number in range(17)]
    pairs = [Pair.of(prompt, "Yes.", "No.") for prompt in prompts]
    asking.write_parts(tmp_path, asking.Gold(pairs, [float(number % 2) for number in range(17)]))

    def of(name: str) -> dict[str, float]:
        return {one.pair.prompt_id: one.p_of("Yes.") for one in read_gold([tmp_path / f"{name}.jsonl"]).judgments}

    held, study, judge = of("heldout"), of("study"), of("judge")
    assert (len(held), len(study), len(judge)) == (5, 10, 7) and not set(study) & set(judge)
    source = f"prompts.sources=[{{kind: file, path: {tmp_path}/study.jsonl}}]"
    recipe = load_recipe("hh-rlhf", [source, "prompts.heldout=5", "prompts.system=null"])
    assert {prompt.id for prompt in read_prompts(recipe.prompts).heldout} == set(held)
    said = {pair.prompt_id: p if pair.a == "Yes." else 1 - p for pair, p in zip(pairs, [0.0, 1.0] * 9, strict=False)}
    assert study | judge == said
