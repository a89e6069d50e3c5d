"""Rounds: the policy of one round is sampled and labelled anew in the next (InstructGPT's steps 2 and 3, repeated;
arXiv 2203.02155, section 3.1).

A round is an ordinary run in FOLDER/round-k of a recipe that differs from the first in up to eight places:

    policy               the policy of the round before
    reference, evaluate  the first round's: every round answers the same questions as the first and is compared with
                         the policy that all began from; only its own KL penalty counts from where the round began
    seed                 its own: new responses, new rollouts
    reward.model         the backbone of the first round's reward model; it is trained anew, on all rounds' preferences
    judge                with `self_reward` the policy that the round begins from
    reward.loss.earlier  with demonstrations: the samples of all rounds before, which stand against them too
    preferences.include  the rows of the round before, which hold those of all rounds before it
    preferences.labels   what people said of the served policy since then, where FOLDER/feedback-k holds any (`live.py`)

With gates (`recipe.iterate`) a round that falls by one of them is refused: its folder stays, gates.json in it says why,
and the next round begins where it began, with another seed. FOLDER/kept is a link to the last kept round, rounds.html
the history. What people said for a refused round goes on to the next one.

What is joined is preferences: ratings, principles' own labels and revisions are those of the round alone. Which prompts
are held out is a matter of their hashes and stays. Being runs, rounds are skipped when done and go on
when killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.decode import Decode
from rlaif.config.feedback import AiLabels, HumanLabels, MixedLabels, TagMix
from rlaif.config.gates import JudgeGate
from rlaif.config.models import LocalModel, VllmModel, with_weights
from rlaif.config.optimise import BestOfN, JudgeDemonstrations, Sft
from rlaif.config.reward import Demonstrations
from rlaif.config.sources import FileSource
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.formats import Annotations
from rlaif.gates.decide import Decision, decide, decided
from rlaif.gates.measures import check_gate, judged_by
from rlaif.gates.page import publish
from rlaif.jsonl import read_json
from rlaif.pipeline import run_recipe
from rlaif.records import derive_seed
from rlaif.run_folder import Run
from rlaif.stages.due import by_first
from rlaif.stages.models import check_judge
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

    ConfigError for a recipe that has nothing to do over again, ModelError for a gate's judge that is nowhere.
    """
    check(recipe, [number for number in range(2, rounds + 1) if not feedback_of(folder, number).exists()])
    if recipe.iterate and not all(decided(Run(round_folder(folder, number))) for number in range(1, rounds + 1)):
        for gate in recipe.iterate.gates.values():
            if isinstance(gate, JudgeGate):
                by_first(partial(check_judge, judged_by(gate, recipe)))
    runs, decisions, kept = [], list[Decision](), 0
    for number in range(1, rounds + 1):
        where = round_folder(folder, number)
        began = f", from round {kept}'s policy, which training measures its KL from" if kept else ""
        say(f"round {number} of {rounds}: {where}{began}")
        own = round_of(recipe, folder, number, kept)
        runs.append(run_recipe(own, where, redo=redo))
        if recipe.iterate:
            decisions.append(by_first(partial(decide, own, recipe.iterate, folder, number, kept)))
            say(f"round {number}: {decisions[-1]}")
            later = takewhile(bool, (decided(Run(round_folder(folder, n))) for n in count(number + 1)))
            history = [*decisions, *(one for one in later if one)]
            by_first(partial(publish, recipe, folder, history))
        kept = number if not decisions or decisions[-1].kept else kept
    rows = [_row(number, run) for number, run in enumerate(runs, start=1)]
    said = [("gates",), *((str(decision),) for decision in decisions)] if decisions else [()] * (rounds + 1)
    return [(*row, *more) for row, more in zip([HEADER, *rows], said, strict=True)]


def last_refused(folder: Path, rounds: int) -> str:
    """Why the gates refused the last of so many rounds; empty where it was kept."""
    decision = decided(Run(round_folder(folder, rounds)))
    return decision.reason if decision else ""


def round_of(recipe: Recipe, folder: Path, number: int, kept: int | None = None) -> Recipe:
    """The recipe of one round; of the first it is the recipe itself under a name of its own, and with what people said
    of the policy before it, if anything. `kept` is the round from which it begins, 0 for none; by default that before
    it."""
    kept = number - 1 if kept is None else kept
    own_judge = recipe.iterate is not None and recipe.iterate.self_reward
    changes: dict[str, Any] = {"name": f"{recipe.name}-round-{number}"}
    recipe = recipe.model_copy(update={"iterate": None})
    for heard in range(kept + 1, number + 1):
        if feedback_of(folder, heard).exists():
            recipe = _with_feedback(recipe, feedback_of(folder, heard))
    if number > 1:
        changes["seed"] = derive_seed(recipe.seed, "round", number)
        changes["evaluate"] = recipe.evaluate.model_copy(update={"seed": recipe.evaluation_seed})
    if kept == 0:
        return recipe.model_copy(update=changes)
    before = Run(round_folder(folder, kept))
    changes |= {"policy": with_weights(recipe.policy, str(before.policy)), "reference": recipe.compared_with}
    if own_judge:
        changes["judge"] = with_weights(_as_policy(recipe), str(before.policy))
    if recipe.reward.model is None and recipe.policy.revision is None:
        changes["reward"] = recipe.reward.model_copy(update={"model": recipe.policy.model})
    loss = recipe.reward.loss
    if isinstance(loss, Demonstrations):  # what every policy so far wrote stands against them
        written = [str(Run(round_folder(folder, n)).responses) for n in range(1, number)]
        against = loss.model_copy(update={"earlier": (*loss.earlier, *written)})
        changes["reward"] = changes.get("reward", recipe.reward).model_copy(update={"loss": against})
    if _learns_preferences(recipe):
        included = (*recipe.preferences.include, str(before.preferences))
        changes["preferences"] = recipe.preferences.model_copy(update={"include": included})
    return recipe.model_copy(update=changes)


def _as_policy(recipe: Recipe) -> LocalModel | VllmModel:
    """The judge of a recipe whose policy judges. ConfigError where its weights are not the policy's."""
    judge, policy = recipe.judge, recipe.policy
    if isinstance(judge, LocalModel | VllmModel) and (judge.model, judge.revision) == (policy.model, policy.revision):
        return judge
    raise ConfigError(
        f"iterate.self_reward: the policy judges, so judge.model must be policy.model, {policy.model!r}, in backend "
        f"local or vllm (got {judge.model!r}, {judge.backend})"
    )


def _learns_preferences(recipe: Recipe) -> bool:
    """Whether the policy learns from preferences, or from a reward model that does not learn from demonstrations
    alone."""
    loss = recipe.reward.loss
    alone = isinstance(loss, Demonstrations) and not loss.preferences
    return recipe.learns_from == "preferences" or (recipe.learns_from == "reward_model" and not alone)


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
    if recipe.iterate:
        if recipe.iterate.self_reward:
            _as_policy(recipe)
        for name, gate in recipe.iterate.gates.items():
            check_gate(name, gate, recipe)
    method = recipe.optimise
    if isinstance(method, BestOfN | Decode):
        raise ConfigError(
            f"iterate: optimise.kind={method.kind} trains nothing, so a second round would be the first again"
        )
    if isinstance(method, Sft) and isinstance(method.data, FileSource | JudgeDemonstrations):
        raise ConfigError(f"iterate: optimise.data.kind={method.data.kind} teaches the same texts in every round")
    if _learns_preferences(recipe) and without_people and isinstance(recipe.preferences.labels, HumanLabels):
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
