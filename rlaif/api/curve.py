"""A reward model's learning curve, measured: held-out accuracy after training on more and more of a run's labels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rlaif.api.reward import train_reward_model
from rlaif.config import load_recipe
from rlaif.config.reward import Regression
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.evaluation.planning import Point
from rlaif.feedback.pairs import read_preferences
from rlaif.records import content_id
from rlaif.run_folder import Run


def measured_curve(folder: Path, sizes: int) -> list[Point]:
    """A point per size: all training preferences, half of them, a quarter, ... with the recipe's reward section and the
    run's own held-out pairs. Smaller parts lie in larger ones, and whole prompts go. ConfigError where the section
    learns from something else than preferences."""
    run, points = Run(folder), []
    recipe = load_recipe(str(run.recipe))
    if isinstance(recipe.reward.loss, Regression) or recipe.reward.principle_heads:
        raise ConfigError(f"{folder}: its reward model learns ratings or principles; a curve is of preferences alone")
    rows = sorted(read_preferences(run.preferences), key=lambda row: content_id("curve", recipe.seed, row.prompt_id))
    train = [row for row in rows if row.split == "train"]
    heldout = [row for row in rows if row.split == "heldout"]
    if not heldout or len(train) < 2 ** (sizes - 1):
        raise ConfigError(f"{folder}: {len(train)} training and {len(heldout)} held-out pairs bear no curve")
    knobs = recipe.reward.model_dump(mode="json", exclude_none=True)
    for halving in reversed(range(sizes)):
        part = train[: len(train) >> halving]
        with tempfile.TemporaryDirectory() as scratch:
            out = f"{scratch}/model"
            model = train_reward_model([*part, *heldout], recipe.policy, out, seed=recipe.seed, **knobs)
        correct, pairs = model.facts["heldout_correct"], model.facts["heldout_pairs"]
        points.append(Point(len(part), correct / pairs, pairs))
        say(f"  {len(part)} labels: {correct} of {pairs} held-out pairs right")
    return points
