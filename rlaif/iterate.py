"""Rounds: the policy of one round is sampled and labelled anew in the next (InstructGPT's steps 2 and 3, repeated;
arXiv 2203.02155, section 3.1).

A round is an ordinary run in FOLDER/round-k of a recipe that differs from the first in up to seven places:

    policy               the policy of the round before
    reference, evaluate  the first round's: every round answers the same questions as the first and is compared with
                         the policy that all began from; only its own KL penalty counts from where the round began
    seed                 its own: new responses, new rollouts
    reward.model         the backbone of the first round's reward model; it is trained anew, on all rounds' preferences
    preferences.include  the rows of the round before, which hold those of all rounds before it
    preferences.labels   what people said of the served policy since then, where FOLDER/feedback-k holds any (`live.py`)

What is joined is preferences: ratings, principles' own labels and revisions are those of the round alone. Which prompts
are held out is a matter of their hashes and stays. Being runs, rounds are skipped when done and go on
when killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.feedback import AiLabels, HumanLabels, MixedLabels, TagMix
from rlaif.config.models import with_weights
from rlaif.config.optimise import BestOfN, JudgeDemonstrations, Sft
from rlaif.config.sources import FileSource
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.formats import Annotations
from rlaif.jsonl import read_json
from rlaif.pipeline import run_recipe
from rlaif.records import derive_seed
from rlaif.run_folder import Run
from rlaif.stats import estimate_at
from rlaif.words import with_interval

Table = list[tuple[str, ...]]
HEADER = ("round", "win rate", "score", "KL", "reward model", "preferences")
NOTES = (
    "win rate, score (before and after, by the round's own reward model) and KL against the policy that round 1 began "
    "from; reward model: held-out accuracy; preferences: rows for training"
)
NONE = "-"


def iterate(recipe: Recipe, rounds: int, folder: Path, redo: bool = False) -> Table:
    """Bring that many rounds up to date and return a table of them, header first; `redo` as in `run_recipe`.

    ConfigError for a recipe that has nothing to do over again.
    """
    check(recipe, [number for number in range(2, rounds + 1) if not feedback_of(folder, number).exists()])
    runs = []
    for number in range(1, rounds + 1):
        where = round_folder(folder, number)
        began = "" if number == 1 else f", from round {number - 1}'s policy, which training measures its KL from"
        say(f"round {number} of {rounds}: {where}{began}")
        runs.append(run_recipe(round_of(recipe, folder, number), where, redo=redo))
    return [HEADER, *(_row(number, run) for number, run in enumerate(runs, start=1))]


def round_of(recipe: Recipe, folder: Path, number: int) -> Recipe:
    """The recipe of one round; of the first it is the recipe itself under a name of its own, and with what people said
    of the policy before it, if anything."""
    name = f"{recipe.name}-round-{number}"
    if feedback_of(folder, number).exists():
        recipe = _with_feedback(recipe, feedback_of(folder, number))
    if number == 1:
        return recipe.model_copy(update={"name": name})
    before = Run(round_folder(folder, number - 1))
    first = recipe.compared_with
    changes: dict[str, Any] = {
        "name": name,
        "seed": derive_seed(recipe.seed, "round", number),
        "policy": with_weights(recipe.policy, str(before.policy)),
        "reference": first,
        "evaluate": recipe.evaluate.model_copy(update={"seed": recipe.evaluation_seed}),
    }
    if recipe.reward.model is None and recipe.policy.revision is None:
        changes["reward"] = recipe.reward.model_copy(update={"model": recipe.policy.model})
    if recipe.learns_from in ("preferences", "reward_model"):
        included = (*recipe.preferences.include, str(before.preferences))
        changes["preferences"] = recipe.preferences.model_copy(update={"include": included})
    return recipe.model_copy(update=changes)


def _with_feedback(recipe: Recipe, feedback: Path) -> Recipe:
    """The recipe, which learns from these labels too."""
    labels = recipe.preferences.labels
    policy = labels.policy if isinstance(labels, MixedLabels) else None
    source = Annotations(run=str(feedback), tags=policy.human if isinstance(policy, TagMix) else ())
    if isinstance(labels, AiLabels):
        more: HumanLabels | MixedLabels = MixedLabels(pairs=labels.pairs, human_data=(source,))
    else:
        more = labels.model_copy(update={"human_data": (*labels.human_data, source)})
    return recipe.model_copy(update={"preferences": recipe.preferences.model_copy(update={"labels": more})})


def round_folder(folder: Path, number: int) -> Path:
    """The run of a round."""
    return folder / f"round-{number}"


def feedback_of(folder: Path, number: int) -> Path:
    """What people said for a round, if anything."""
    return folder / f"feedback-{number}"


def check(recipe: Recipe, without_people: Sequence[int] = ()) -> None:
    """ConfigError for a recipe that has nothing to do over again. `without_people`: later rounds for which nobody said
    anything."""
    method = recipe.optimise
    if isinstance(method, BestOfN):
        raise ConfigError("iterate: optimise.kind=best_of_n trains nothing, so a second round would be the first again")
    if isinstance(method, Sft) and isinstance(method.data, FileSource | JudgeDemonstrations):
        raise ConfigError(f"iterate: optimise.data.kind={method.data.kind} teaches the same texts in every round")
    learns_labels = recipe.learns_from in ("preferences", "reward_model")
    if learns_labels and without_people and isinstance(recipe.preferences.labels, HumanLabels):
        raise ConfigError("iterate: preferences.labels.kind=human: nobody labels what a new policy writes")


def _row(number: int, run: Run) -> tuple[str, ...]:
    evaluation = read_json(run.evaluation, EVALUATION)
    policy = evaluation.get("policy", {})
    score, kl = policy.get("score"), policy.get("kl") or {}
    return (
        str(number),
        with_interval(estimate_at(policy, "win_rate_vs_reference")),
        f"{score['before']:.2f} to {score['after']:.2f}" if score else NONE,
        f"{kl['value']:.2f}" if kl.get("value") is not None else NONE,
        with_interval(estimate_at(evaluation, "reward_model.heldout_accuracy")),
        str(run.read_manifest()["stages"].get("pairs", {}).get("train", NONE)),
    )
