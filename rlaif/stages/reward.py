"""From preferences to a reward model: the stage reward."""

from __future__ import annotations

from typing import Any

from rlaif.config import Recipe
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Preference, Response, content_id
from rlaif.run import Run
from rlaif.stages.asking import made, read_if_there
from rlaif.stages.publish import publishing

MOST_REFERENCE_RESPONSES = 512
"""Enough to know the mean score of the untrained policy to a few hundredths of a standard deviation."""


def reward(recipe: Recipe, run: Run) -> dict[str, Any]:
    """reward_model/ and what it says of held-out preferences.

    Scores are centred on responses of the untrained policy, the 512 with the smallest hashes where there are more.
    A run without samples (human labels alone) centres on its training responses instead, so there a score of 0 is
    their mean and not the policy's.
    """
    from rlaif.training.reward import train as training
    from rlaif.training.tracking import tracking

    preferences = read_jsonl(made(run.preferences, "pairs"), Preference)
    stage = training.open_stage(recipe)
    total = training.planned_updates(stage, preferences)
    with tracking(run, "reward", total) as tracker:
        training.train_reward_model(stage, preferences, run.checkpoints / "reward", tracker)
    by_hash = sorted(read_if_there(run.responses, Response), key=lambda response: content_id("centre", response.id))
    responses = by_hash[:MOST_REFERENCE_RESPONSES]
    training.centre(stage, training.reference_rows(stage, responses, preferences))
    with publishing(run.reward_model) as folder:
        stage.model.save(folder, stage.tokenizer)
        heldout = training.score_heldout(stage, preferences)
    write_jsonl(run.heldout, [row._asdict() for row in heldout])
    correct = sum(row.margin > 0 for row in heldout)
    return {"updates": total, "heldout_pairs": len(heldout), "heldout_correct": correct}
