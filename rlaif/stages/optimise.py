"""From a reward or from texts to a policy: the stage optimise, by any of the methods behind `optimise.kind`. Best-of-n
trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config import Recipe
from rlaif.config.decode import Decode
from rlaif.config.optimise import Dpo, JudgeDemonstrations, Offline, OnPolicy, Sft
from rlaif.config.rollouts import VllmRollouts
from rlaif.config.scoring import FlipsCost, JudgeScore, ModelScore, Scored, Source
from rlaif.config.sources import FileSource
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.judge.result import COSTS
from rlaif.feedback.pairs import read_preferences
from rlaif.feedback.prompts import read_prompts
from rlaif.jsonl import write_json
from rlaif.models.decoding import BEST_OF_N
from rlaif.models.files import named_files
from rlaif.processes import leads
from rlaif.records import derive_seed
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.decode import decode
from rlaif.stages.demonstrations import cut_off_texts, demonstrations
from rlaif.stages.pairs import say_failures
from rlaif.stages.stage import (
    Stage,
    asking,
    constitution_files,
    made,
    mode_files,
    model_files,
    named,
    prompt_files,
    publishing,
)

if TYPE_CHECKING:
    from rlaif.training.policy_model import PolicyModel


def optimise(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the trained policy; of best-of-n the untrained one, with a note that it counts by the best of n
    responses: the stage evaluate draws and scores them."""
    method = recipe.optimise
    if recipe.learns_from is None:  # else the stages sample or pairs have said it
        say_failures(read_prompts(recipe.prompts))
    if isinstance(method, OnPolicy):
        return _from_rollouts(recipe, run, method)
    if isinstance(method, Dpo):
        return _dpo(recipe, run, method)
    if isinstance(method, Sft):
        return _sft(recipe, run, method)
    if isinstance(method, Decode):
        return decode(recipe, run, method)
    policy = _policy(recipe)
    with publishing(run.policy) as folder:
        policy.save(folder)
        if leads():
            write_json(folder / BEST_OF_N, {"n": method.n})
    return {"n": method.n}


def _from_rollouts(recipe: Recipe, run: Run, section: OnPolicy) -> dict[str, Any]:
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training import memory
    from rlaif.training.optimise.actors import open_actors
    from rlaif.training.optimise.loop import train_policy
    from rlaif.training.reward.ensemble import RewardModels
    from rlaif.training.tracking import tracking

    constitution = load_constitution(recipe.constitution)
    prompts = read_prompts(recipe.prompts).train
    folder = made(run.reward_model, "reward") if section.reads_reward_model else None
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    rewards = open_rewards(recipe, lambda judge: asking(judge, run), models, section.microbatch_tokens)
    plan = memory.plan_memory(recipe, "optimise", memory.rollout_rows(recipe, prompts))
    checkpoints = run.checkpoints / "optimise"
    talks = asking(section.dialogue.user, run) if section.dialogue and leads() else nullcontext(None)
    with memory.within(plan), talks as user, rewards as open_reward:
        actors = open_actors(recipe, models, open_reward, checkpoints / "weights", user)
        try:
            with tracking(run, "optimise", section.steps, recipe) as tracker:
                train_policy(actors, prompts, section, recipe.seed, checkpoints, tracker, constitution.pass_rates)
        finally:
            actors.sampler.close()
    with publishing(run.policy) as folder:
        actors.policy.save(folder)
    facts = {"steps": section.steps, "rollouts": section.steps * section.rollouts_per_step}
    return facts | _asked(run.read_metrics("optimise"))


def _asked(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What all steps took of judges, those that are held out too."""
    found = {name: sum(int(row.get(f"{of}/{name}", 0)) for row in rows for of in ("asked", "gold")) for name in COSTS}
    return found if found["judge_calls"] else {}


# ------------------------------------------------------------------------------------------------------ DPO and SFT


def _dpo(recipe: Recipe, run: Run, section: Dpo) -> dict[str, Any]:
    """Held-out preferences only measure the policy's implicit reward: the last row of its metrics, under the step after
    the last."""
    from rlaif.training.offline import DpoMethod
    from rlaif.training.truncation import Truncation

    preferences = read_preferences(made(run.preferences, "pairs"))
    cut_off, policy = cut_off_texts(run), _policy(recipe)
    seen = Truncation("optimise", section)
    unseen = Truncation("optimise", section, "held-out pairs", limited=False)
    method, heldout = (
        DpoMethod.of(policy, [row for row in preferences if row.split == split], section, cut_off, truncation)
        for split, truncation in (("train", seen), ("heldout", unseen))
    )
    if not method.lessons:
        raise DataError("preferences.jsonl: no training pairs; see preferences.tie_margin and label failures")
    updates = _train(recipe, run, section, policy, method, heldout)
    facts = {"updates": updates, "pairs": len(method.lessons), "heldout_pairs": len(heldout.lessons)}
    facts |= seen.facts() | unseen.facts("heldout_")
    last = run.read_metrics("optimise")[-1]
    return facts | {name: value for name, value in last.items() if name == "heldout_accuracy"}


def _sft(recipe: Recipe, run: Run, section: Sft) -> dict[str, Any]:
    from rlaif.training.lessons import Text
    from rlaif.training.offline import SftExample, SftMethod
    from rlaif.training.truncation import Truncation

    shown, counts = demonstrations(recipe, run, section.data)
    policy = _policy(recipe)  # after the judge, who may have needed the memory
    rows = [SftExample(s.prompt.id, s.prompt.messages, Text(s.text, s.finished)) for s in shown]
    truncation = Truncation("optimise", section, "demonstrations")
    method = SftMethod.of(policy.tokenizer, rows, section.max_length, truncation)
    if not method.lessons:
        raise DataError(f"optimise.data.kind={section.data.kind}: no demonstrations to learn from")
    updates = _train(recipe, run, section, policy, method)
    blank = {"blank": len(shown) - len(method.lessons)} if len(shown) > len(method.lessons) else {}
    facts = {"updates": updates, "demonstrations": len(method.lessons), **counts}
    return facts | blank | truncation.facts()


def _policy(recipe: Recipe) -> PolicyModel:
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training.policy_model import PolicyModel

    return PolicyModel.load(recipe.policy.model, recipe.policy.revision, torch_dtype(recipe.policy.dtype))


def _train(recipe: Recipe, run: Run, section: Sft | Dpo, policy: PolicyModel, method: Any, heldout: Any = None) -> int:
    """Train, measure what was held out, publish; returns the number of updates."""
    from rlaif.training import memory
    from rlaif.training.offline import make_learner, plan_of, train
    from rlaif.training.tracking import tracking

    make_learner(policy, section.lora, derive_seed(recipe.seed, section.kind, "lora"), recipe.compute)
    rows = [row for lesson in method.lessons for row in lesson.rows]
    plan = memory.plan_memory(recipe, "optimise", rows, policy.model)
    updates = len(plan_of(method, section, recipe.seed))
    measures = heldout is not None and bool(heldout.lessons)
    with memory.within(plan), tracking(run, "optimise", updates + measures, recipe) as tracker:
        train(policy, method, section, recipe.seed, run.checkpoints / "optimise", tracker)
        if measures:
            found = heldout.summary(policy)
            tracker.log(updates, {f"heldout_{name}": value for name, value in found.items()})
    with publishing(run.policy) as folder:
        policy.save(folder)
    return updates


def method_files(recipe: Recipe) -> list[Path]:
    """What scores or teaches the policy from outside the run: constitution, judges, templates, demonstrations."""
    method = recipe.optimise
    if isinstance(method, Sft) and isinstance(method.data, FileSource):
        return [named(method.data.path)]
    if isinstance(method, Offline):
        return model_files(recipe.judge) if _asks_a_judge(recipe) else []
    judges = [file for judge in _judges(method) for file in mode_files(judge.mode, judge.model or recipe.judge)]
    rollouts, dialogue = (method.rollouts, method.dialogue) if isinstance(method, OnPolicy) else (None, None)
    judges += model_files(dialogue.user) if dialogue else []
    told = named_files(rollouts.arguments) if isinstance(rollouts, VllmRollouts) else []
    return [*constitution_files(recipe, method.sources), *judges, *told, *other_models(method.sources)]


def other_models(sources: Iterable[Source]) -> list[Path]:
    """The folders of reward models that are not the run's."""
    return [named(s.path) for s in sources if isinstance(s, ModelScore) and s.path]


def _judges(method: Scored) -> list[JudgeScore | FlipsCost]:
    gold = [method.gold.source] if isinstance(method, OnPolicy) and method.gold else []
    return [source for source in [*method.sources, *gold] if isinstance(source, JudgeScore | FlipsCost)]


def _asks_a_judge(recipe: Recipe) -> bool:
    method = recipe.optimise
    if isinstance(method, Sft):
        return isinstance(method.data, JudgeDemonstrations)
    return not isinstance(method, Dpo) and bool(_judges(method))


def _learnt_from(recipe: Recipe, run: Run) -> list[Path]:
    """What of this run the policy is trained on."""
    return {
        "reward_model": [run.reward_model],
        "preferences": [run.preferences, run.responses, run.human_demonstrations],
        "demonstrations": [run.demonstrations],
        None: [],
    }[recipe.learns_from]


OPTIMISE = Stage(
    "optimise",
    optimise,
    knobs=lambda recipe: [
        "seed",
        "policy",
        "prompts",
        "optimise",
        "compute",
        "tracking",
        "label.max_failures",
        *([] if isinstance(recipe.optimise, Offline) else ["constitution", "reward.model"]),
        *(["reward"] if recipe.learns_from == "reward_model" else []),
        *(["judge", "label"] if _asks_a_judge(recipe) else []),
        *(["sample"] if isinstance(recipe.optimise, Decode) else []),
    ],
    inputs=lambda recipe, run: [
        *_learnt_from(recipe, run),
        *method_files(recipe),
        *prompt_files(recipe),
        *model_files(recipe.policy),
    ],
    outputs=lambda run: [run.policy, run.judge_demonstrations, run.demonstration_failures],
    together=True,
)
