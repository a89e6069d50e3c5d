"""The whole recipe, top to bottom: the file to read first.

    constitution + prompts
      -> responses.jsonl     sample     n responses per prompt from the policy (+ sample_failures.jsonl)
      -> judgments.jsonl     label      the judge's verdicts, both orders, per principle (+ failures.jsonl)
      -> preferences.jsonl   pairs      AI, human or mixed
      -> reward_model/       reward     trained on preferences; never learns where a row came from
      -> policy/             optimise   trained on whatever `optimise.kind` learns from
      -> evaluation.json     evaluate   policy against reference on held-out prompts
      -> report.html         report     one page for a person

Every arrow is a stage in `stages/`: it says which knobs of the recipe and which files it reads, and is skipped while
these are as they were. `stages/due.py` looks after that, and says what happens when they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlaif.annotate.publish import publish
from rlaif.config import Recipe
from rlaif.config.feedback import HumanLabels
from rlaif.config.recipe import Artefact
from rlaif.config.reward import Demonstrations
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.evaluation.measures import instruments
from rlaif.feedback.human import annotated_run
from rlaif.feedback.judge import check_modes
from rlaif.formats import Annotations
from rlaif.run_folder import Run
from rlaif.stages.decode import check_decode
from rlaif.stages.due import by_first, check_changes, run_stage, runs_there
from rlaif.stages.evaluation import EVALUATE, REPORT
from rlaif.stages.feedback import LABEL, SAMPLE
from rlaif.stages.forecast import forecast
from rlaif.stages.models import check_models
from rlaif.stages.optimise import OPTIMISE
from rlaif.stages.pairs import PAIRS
from rlaif.stages.reward import REWARD
from rlaif.stages.slices import check_slices
from rlaif.stages.stage import Stage, classifiers
from rlaif.training.tracking import check_trackers

STAGES = {stage.name: stage for stage in (SAMPLE, LABEL, PAIRS, REWARD, OPTIMISE, EVALUATE, REPORT)}
MADE_BY: dict[Artefact | None, tuple[str, ...]] = {
    "reward_model": ("sample", "label", "pairs", "reward"),
    "preferences": ("sample", "label", "pairs"),
    "demonstrations": ("sample", "label"),
    None: (),
}
"""The stages that lead to what a policy learns from."""


def stages_of(recipe: Recipe) -> list[str]:
    """The stages this recipe needs, in order. Human labels need neither samples nor a judge to make preferences."""
    spared: set[str] = set()
    if recipe.learns_from != "demonstrations" and recipe.preferences.pairs == "human":
        spared = {"sample", "label"} if isinstance(recipe.preferences.labels, HumanLabels) else {"sample"}
    loss = recipe.reward.loss
    if recipe.learns_from == "reward_model" and isinstance(loss, Demonstrations):  # they stand against samples
        unasked = {"file": {"label", "pairs"}, "revisions": {"pairs"}, "human": set[str]()}[loss.data.kind]
        spared = (spared | (set() if loss.preferences else unasked)) - {"sample"}
    needed = {*MADE_BY[recipe.learns_from], "optimise", "evaluate", "report"} - spared
    return [name for name in STAGES if name in needed]


def unfinished(recipe: Recipe, run: Run) -> list[Stage]:
    """The stages this recipe needs and the run has not finished."""
    done = run.read_manifest()["stages"]
    return [STAGES[name] for name in stages_of(recipe) if name not in done]


def stages_until(recipe: Recipe, last: str) -> list[str]:
    """The stages this recipe needs up to this one. ConfigError for a stage that it has not."""
    wanted = stages_of(recipe)
    return wanted[: _place(wanted, last) + 1]


def _place(wanted: Sequence[str], name: str) -> int:
    if name not in wanted:
        raise ConfigError(f"{name}: this recipe has no such stage; it has {', '.join(wanted)}")
    return wanted.index(name)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    only: Sequence[str] | None = None,
    *,
    since: Path | Sequence[Path] = (),
    redo: bool = False,
) -> Run:
    """Bring the run folder up to date, stage by stage; with `only`, just those stages.

    What a run in `since` made of the very same inputs is taken over from there. Where the recipe changed, stages that
    are not finished follow it; finished ones only with `redo`, else ConfigError says which.
    """
    run = Run(folder)
    by_first(lambda: None)  # all are here: whatever fails from now on is said once
    with run.lock():
        recipe = by_first(lambda: _settled(recipe, run))
        check_trackers(recipe)
        check_modes(recipe)
        check_decode(recipe)
        instruments(recipe.evaluate.measures)
        wanted = stages_of(recipe)
        todo = sorted({_place(wanted, name) for name in (wanted if only is None else only)})
        for place in todo:
            STAGES[wanted[place]].inputs(recipe, run)  # a name that stands for nothing is said now, not after hours
        due = {wanted[place] for place in todo} - run.read_manifest()["stages"].keys()
        if "evaluate" in due:
            by_first(lambda: check_slices(recipe))
        if due & {"label", "optimise", "evaluate"}:
            for classifier in classifiers(recipe, getattr(recipe.optimise, "sources", ())):
                classifier.load()
        by_first(lambda: check_models((recipe, [STAGES[name] for name in stages_of(recipe) if name in due])))
        others = runs_there([since] if isinstance(since, Path) else since, run)
        by_first(lambda: _claim(recipe, run, redo))
        begins = only is None and not others and not run.read_manifest()["stages"]
        if begins and (line := by_first(lambda: forecast(recipe))):
            say(line)
        for place in todo:
            run_stage(recipe, run, STAGES[wanted[place]], f"[{place + 1}/{len(wanted)}] {wanted[place]}", others)
    return run


def _settled(recipe: Recipe, run: Run) -> Recipe:
    """The recipe as this run has it, `dtype: auto` settled."""
    if '"dtype":"auto"' not in recipe.model_dump_json():
        return recipe
    from rlaif.models.local.machine import settled  # noqa: PLC0415 (brings torch)

    return settled(recipe, run.earlier())


def _claim(recipe: Recipe, run: Run, redo: bool) -> None:
    """Bind the folder to the recipe. What people answered on the pages that it learns from becomes files, before a
    stage looks at them."""
    check_changes(recipe, run, [STAGES[name] for name in stages_of(recipe)], redo)
    run.claim(recipe)
    for source in (*recipe.preferences.labels.human_data, *recipe.preferences.annotators.gold):
        if isinstance(source, Annotations):
            publish(annotated_run(source, run))
