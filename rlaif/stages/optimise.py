"""From a reward or from texts to a policy: the stage optimise, by any of the methods behind `optimise.kind`. Best-of-n
trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config import Recipe
from rlaif.config.optimise import (
    BestOfN,
    ChosenDemonstrations,
    Dpo,
    HumanDemonstrations,
    JudgeDemonstrations,
    Offline,
    OnPolicy,
    RunDemonstrations,
    Sft,
    VllmRollouts,
)
from rlaif.config.scoring import JudgeScore
from rlaif.config.sources import FileSource
from rlaif.console import bar
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.pairs import read_preferences
from rlaif.feedback.prompts import DemonstrationText, ask_judge, read_demonstrations, read_prompts
from rlaif.feedback.sample import check_sample_failures
from rlaif.formats.rows import path_of
from rlaif.jsonl import read_jsonl, write_json, write_jsonl
from rlaif.models.files import named_files
from rlaif.processes import leads
from rlaif.records import Demonstration, Message, Prompt, Response, derive_seed, prompt_of
from rlaif.resources import resolve
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.stage import Stage, asking, made, mode_files, model_files, prompt_files, publishing, read_if_there

if TYPE_CHECKING:
    from rlaif.training.policy_model import PolicyModel

BEST_OF_N = "best_of_n.json"
"""Beside the weights in policy/, where the policy is the best of n responses of the reference."""


def optimise(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the trained policy; of best-of-n the untrained one, with a note that it counts by the best of n
    responses: the stage evaluate draws and scores them."""
    method = recipe.optimise
    if isinstance(method, OnPolicy):
        return _from_rollouts(recipe, run, method)
    if isinstance(method, Dpo):
        return _dpo(recipe, run, method)
    if isinstance(method, Sft):
        return _sft(recipe, run, method)
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
    with memory.within(plan), rewards as open_reward:
        actors = open_actors(recipe, models, open_reward, checkpoints / "weights")
        try:
            with tracking(run, "optimise", section.steps, recipe) as tracker:
                train_policy(actors, prompts, section, recipe.seed, checkpoints, tracker, constitution.pass_rates)
        finally:
            actors.sampler.close()
    with publishing(run.policy) as folder:
        actors.policy.save(folder)
    return {"steps": section.steps, "rollouts": section.steps * section.rollouts_per_step}


# ------------------------------------------------------------------------------------------------------ DPO and SFT


def _dpo(recipe: Recipe, run: Run, section: Dpo) -> dict[str, Any]:
    """Held-out preferences only measure the policy's implicit reward: the last row of its metrics, under the step after
    the last."""
    from rlaif.training.offline import DpoMethod
    from rlaif.training.truncation import Truncation

    preferences = read_preferences(made(run.preferences, "pairs"))
    cut_off, policy = _cut_off(run), _policy(recipe)
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

    shown, dropped = demonstrations(recipe, run, section)
    policy = _policy(recipe)  # after the judge, who may have needed the memory
    rows = [SftExample(s.prompt.id, s.prompt.messages, Text(s.text, s.finished)) for s in shown]
    truncation = Truncation("optimise", section, "demonstrations")
    method = SftMethod.of(policy.tokenizer, rows, section.max_length, truncation)
    if not method.lessons:
        raise DataError(f"optimise.data.kind={section.data.kind}: no demonstrations to learn from")
    updates = _train(recipe, run, section, policy, method)
    blank = {"blank": len(shown) - len(method.lessons)} if len(shown) > len(method.lessons) else {}
    facts = {"updates": updates, "demonstrations": len(method.lessons), "dropped": dropped}
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


# --------------------------------------------------------------------------------------------------- demonstrations


def demonstrations(recipe: Recipe, run: Run, section: Sft) -> tuple[list[DemonstrationText], int]:
    """The demonstrations that `optimise.data` names, each once; and how many were left out because their prompt is kept
    for evaluation."""
    split, data = read_prompts(recipe.prompts), section.data
    if isinstance(data, RunDemonstrations):
        rows = read_jsonl(made(run.demonstrations, "label"), Demonstration)
        last = {row.prompt_id: row.round for row in sorted(rows, key=lambda row: row.round)}
        rows = [row for row in rows if row.round == last[row.prompt_id]]
        found = [DemonstrationText(prompt_of(row), row.completion[-1].content) for row in rows]
    elif isinstance(data, HumanDemonstrations):
        rows = read_jsonl(made(run.human_demonstrations, "pairs"), Demonstration)
        found = [DemonstrationText(prompt_of(row), row.completion[-1].content) for row in rows]
    elif isinstance(data, ChosenDemonstrations):
        cut_off = _cut_off(run)
        found = [
            DemonstrationText(prompt_of(row), text, (row.prompt_id, text) not in cut_off)
            for row in read_preferences(made(run.preferences, "pairs"))
            if row.split == "train" and row.p_chosen > 0.5
            for text in [row.chosen[-1].content]
        ]
    elif isinstance(data, JudgeDemonstrations):
        found = _answers(recipe, run, data, split.train)
    else:
        found = list(read_demonstrations(data, recipe.prompts.system))
    never = {prompt.id for prompt in split.heldout} | {prompt.messages for prompt in split.heldout}
    kept = [s for s in found if s.prompt.id not in never and s.prompt.messages not in never]
    each = {(s.prompt.messages, s.text): s for s in kept}
    return list(each.values()), len(found) - len(kept)


def _answers(recipe: Recipe, run: Run, data: JudgeDemonstrations, prompts: Sequence[Prompt]) -> list[DemonstrationText]:
    """The judge's own answers, kept in judge_demonstrations.jsonl, and its failures. The first process asks."""
    from rlaif.training import parallel

    def ask() -> list[DemonstrationText]:
        with asking(recipe.judge, run) as judge, bar("optimise", len(prompts), "demonstrations") as advance:
            result = ask_judge(judge, prompts, data, recipe.seed, advance)
        write_jsonl(run.demonstration_failures, result.failures)
        check_sample_failures(result, recipe.label.max_failures, "optimise.data.kind=judge")
        write_jsonl(run.judge_demonstrations, [_as_row(response) for response in result.responses])
        return [DemonstrationText(prompt_of(r), r.text, r.finished) for r in result.responses]

    return parallel.first(ask)


def _as_row(response: Response) -> Demonstration:
    return Demonstration(
        prompt=response.prompt,
        completion=(Message(role="assistant", content=response.text),),
        source="ai",
        prompt_id=response.prompt_id,
        round=0,
        tags=response.tags,
    )


def _cut_off(run: Run) -> set[tuple[str, str]]:
    """(prompt id, text) of the run's samples that the token limit ended: whoever learns from one must not learn to
    stop there."""
    return {(r.prompt_id, r.text) for r in read_if_there(run.responses, Response) if not r.finished}


# ------------------------------------------------------------------------------------------------------ what it reads


def method_files(recipe: Recipe) -> list[Path]:
    """What scores or teaches the policy from outside the run: constitution, judges, templates, demonstrations."""
    method = recipe.optimise
    if isinstance(method, Sft):
        if isinstance(method.data, FileSource):
            return [path_of(method.data)]
        return model_files(recipe.judge) if isinstance(method.data, JudgeDemonstrations) else []
    if isinstance(method, Dpo):
        return []
    judges = [file for judge in _judges(method) for file in mode_files(judge.mode, judge.model or recipe.judge)]
    rollouts = method.rollouts if isinstance(method, OnPolicy) else None
    told = named_files(rollouts.arguments) if isinstance(rollouts, VllmRollouts) else []
    return [resolve("constitutions", recipe.constitution), *judges, *told]


def _judges(method: OnPolicy | BestOfN) -> list[JudgeScore]:
    gold = [method.gold.source] if isinstance(method, OnPolicy) and method.gold else []
    return [source for source in [*method.sources, *gold] if isinstance(source, JudgeScore)]


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
