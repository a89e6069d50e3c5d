"""From texts to a policy: the methods of the stage optimise without rollouts, and best-of-n, which trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif.config import Recipe
from rlaif.config.optimise import (
    BestOfN,
    ChosenDemonstrations,
    Dpo,
    HumanDemonstrations,
    JudgeDemonstrations,
    RunDemonstrations,
    Sft,
)
from rlaif.config.sources import FileSource
from rlaif.console import bar
from rlaif.errors import DataError
from rlaif.feedback.demonstrations import DemonstrationText, ask_judge, read_demonstrations
from rlaif.feedback.pairs import read_preferences
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import check_sample_failures
from rlaif.jsonl import read_jsonl, write_json, write_jsonl
from rlaif.processes import leads
from rlaif.records import Demonstration, Message, Prompt, Response, derive_seed
from rlaif.run_folder import Run
from rlaif.stages.asking import asking, made, read_if_there
from rlaif.stages.stage import publishing

if TYPE_CHECKING:
    from rlaif.training.policy_model import PolicyModel

BEST_OF_N = "best_of_n.json"
"""Beside the weights in policy/, where the policy is the best of n responses of the reference."""


class Demonstrations(NamedTuple):
    """What to imitate, and how many were left out because their prompt is kept for evaluation or is a tie."""

    shown: list[DemonstrationText]
    dropped: int


# ----------------------------------------------------------------------------------------------------------- SFT


def sft(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the policy after imitating demonstrations."""
    from rlaif.training.lessons import Text
    from rlaif.training.offline import SftExample, SftMethod, make_learner
    from rlaif.training.truncation import Truncation

    section = recipe.optimise
    assert isinstance(section, Sft)
    shown, dropped = demonstrations(recipe, run, section)
    policy = _policy(recipe)
    rows = [SftExample(s.prompt.id, s.prompt.messages, Text(s.text, s.finished)) for s in shown]
    truncation = Truncation("optimise", section, "demonstrations")
    method = SftMethod.of(policy.tokenizer, rows, section.max_length, truncation)
    if not method.lessons:
        raise DataError(f"optimise.data.kind={section.data.kind}: no demonstrations to learn from")
    make_learner(policy, section.lora, _lora_seed(recipe), recipe.compute)
    updates = _train(recipe, run, policy, method)
    blank = {"blank": len(shown) - len(method.lessons)} if len(shown) > len(method.lessons) else {}
    facts = {"updates": updates, "demonstrations": len(method.lessons), "dropped": dropped}
    return facts | blank | truncation.facts()


def demonstrations(recipe: Recipe, run: Run, section: Sft) -> Demonstrations:
    """The demonstrations that `optimise.data` names, each once; none on a prompt that is kept for evaluation."""
    split = read_prompts(recipe.prompts)
    if isinstance(section.data, RunDemonstrations):
        found = _revisions(run)
    elif isinstance(section.data, JudgeDemonstrations):
        found = _answers(recipe, run, section.data, split.train)
    elif isinstance(section.data, ChosenDemonstrations):
        found = _chosen(run)
    elif isinstance(section.data, HumanDemonstrations):
        found = _edited(run)
    else:
        assert isinstance(section.data, FileSource)
        found = list(read_demonstrations(section.data, recipe.prompts.system))
    never = {prompt.id for prompt in split.heldout} | {prompt.messages for prompt in split.heldout}
    kept = [s for s in found if s.prompt.id not in never and s.prompt.messages not in never]
    each = {(s.prompt.messages, s.text): s for s in kept}
    return Demonstrations(list(each.values()), len(found) - len(kept))


def _revisions(run: Run) -> list[DemonstrationText]:
    """Final revisions: of each prompt those of its last round."""
    rows = read_jsonl(made(run.demonstrations, "label"), Demonstration)
    last: dict[str, int] = {}
    for row in rows:
        last[row.prompt_id] = max(row.round, last.get(row.prompt_id, 0))
    return [
        DemonstrationText(Prompt(id=row.prompt_id, messages=row.prompt, tags=row.tags), row.completion[-1].content)
        for row in rows
        if row.round == last[row.prompt_id]
    ]


def _edited(run: Run) -> list[DemonstrationText]:
    """What people made of responses."""
    rows = read_jsonl(made(run.human_demonstrations, "pairs"), Demonstration)
    return [
        DemonstrationText(Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags), r.completion[-1].content)
        for r in rows
    ]


def _chosen(run: Run) -> list[DemonstrationText]:
    """The chosen side of every training preference that is no tie."""
    cut_off = _cut_off(run)
    return [
        DemonstrationText(
            Prompt(id=row.prompt_id, messages=row.prompt, tags=row.tags), text, (row.prompt_id, text) not in cut_off
        )
        for row in read_preferences(made(run.preferences, "pairs"))
        if row.split == "train" and row.p_chosen > 0.5
        for text in [row.chosen[-1].content]
    ]


def _answers(recipe: Recipe, run: Run, data: JudgeDemonstrations, prompts: Sequence[Prompt]) -> list[DemonstrationText]:
    """The judge's own answers, kept in judge_demonstrations.jsonl, and its failures. The first process asks."""
    from rlaif.training import parallel

    def ask() -> list[DemonstrationText]:
        with asking(recipe.judge, run) as judge, bar("optimise", len(prompts), "demonstrations") as advance:
            result = ask_judge(judge, prompts, data, recipe.seed, advance)
        write_jsonl(run.demonstration_failures, result.failures)
        check_sample_failures(result, recipe.label.max_failures, "optimise.data.kind=judge")
        write_jsonl(run.judge_demonstrations, [_as_row(response) for response in result.responses])
        return [
            DemonstrationText(Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags), r.text, r.finished)
            for r in result.responses
        ]

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


# ----------------------------------------------------------------------------------------------------------- DPO


def dpo(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the policy after direct preference optimisation. Held-out preferences only measure its implicit
    reward: the last row of its metrics, under the step after the last."""
    from rlaif.training.offline import DpoMethod, make_learner
    from rlaif.training.truncation import Truncation

    section = recipe.optimise
    assert isinstance(section, Dpo)
    preferences = read_preferences(made(run.preferences, "pairs"))
    cut_off = _cut_off(run)
    policy = _policy(recipe)
    seen = Truncation("optimise", section)
    unseen = Truncation("optimise", section, "held-out pairs", limited=False)
    method, heldout = (
        DpoMethod.of(policy, [row for row in preferences if row.split == split], section, cut_off, truncation)
        for split, truncation in (("train", seen), ("heldout", unseen))
    )
    if not method.lessons:
        raise DataError("preferences.jsonl: no training pairs; see preferences.tie_margin and label failures")
    make_learner(policy, section.lora, _lora_seed(recipe), recipe.compute)
    updates = _train(recipe, run, policy, method, heldout)
    facts = {"updates": updates, "pairs": len(method.lessons), "heldout_pairs": len(heldout.lessons)}
    facts |= seen.facts() | unseen.facts("heldout_")
    last = run.read_metrics("optimise")[-1]
    return facts | {name: value for name, value in last.items() if name == "heldout_accuracy"}


# ----------------------------------------------------------------------------------------------------- best of n


def best_of_n(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the untrained policy, with a note that it counts by the best of n responses. The stage evaluate draws
    and scores them."""
    section = recipe.optimise
    assert isinstance(section, BestOfN)
    policy = _policy(recipe)
    with publishing(run.policy) as folder:
        policy.save(folder)
        if leads():
            write_json(folder / BEST_OF_N, {"n": section.n})
    return {"n": section.n}


# -------------------------------------------------------------------------------------------------------- shared


def _policy(recipe: Recipe) -> PolicyModel:
    from rlaif.models.local.dtype import torch_dtype
    from rlaif.training.policy_model import PolicyModel

    return PolicyModel.load(recipe.policy.model, recipe.policy.revision, torch_dtype(recipe.policy.dtype))


def _lora_seed(recipe: Recipe) -> int:
    return derive_seed(recipe.seed, recipe.optimise.kind, "lora")


def _train(recipe: Recipe, run: Run, policy: PolicyModel, method: Any, heldout: Any = None) -> int:
    """Train, measure what was held out, publish; returns the number of updates."""
    from rlaif.training import memory
    from rlaif.training.offline import plan_of, train
    from rlaif.training.tracking import tracking

    section = recipe.optimise
    assert isinstance(section, Sft | Dpo)
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
