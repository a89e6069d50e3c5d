"""`evaluate.slices`: both policies on the sets that training never saw, and what the slices have of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config import Recipe
from rlaif.config.measures import SliceSet
from rlaif.config.sources import FileSource
from rlaif.console import say
from rlaif.errors import DataError
from rlaif.feedback.human import read_human
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.prompts import joined, read_set
from rlaif.jsonl import write_jsonl
from rlaif.records import Failure, Judgment, Prompt
from rlaif.resources import resolve
from rlaif.run_folder import Run
from rlaif.stages.stage import human_files, read_if_there

if TYPE_CHECKING:
    from rlaif.evaluation.evaluate import EvaluationInputs


def slice_files(recipe: Recipe, run: Run) -> list[Path]:
    """What the slices read: prompt files of the sets, and what people said where they are grouped."""
    section = recipe.evaluate.slices
    sets = [resolve("prompts/sets", one.path) for one in (section.sets if section else ())]
    return [*sets, *(human_files(recipe.preferences.human_data, run) if section and section.annotators else ())]


def check_slices(recipe: Recipe) -> None:
    """DataError, before any work, for a set without a prompt of its own and for a field that no row has."""
    from rlaif.evaluation.subgroups import groups_of

    section = recipe.evaluate.slices
    for one in section.sets if section else ():
        _set(recipe, one)
    if section and section.annotators:
        groups_of(recipe.preferences.human_data, section.annotators)


def evaluate_slices(
    recipe: Recipe,
    run: Run,
    inputs: EvaluationInputs,
    asked: Callable[[Sequence[Prompt]], tuple[EvaluationInputs, JudgeResult]],
) -> tuple[list[dict[str, Any]], JudgeResult | None, list[Failure]]:
    """The entries of evaluation.json, what the judge said of the sets, and their rows without a prompt. The answers
    to the sets, and what was said of them, lie beside the held-out prompts'."""
    from rlaif.evaluation.evaluate import sample_rows
    from rlaif.evaluation.slices import Asked, slices
    from rlaif.stats import Bootstrap

    section = recipe.evaluate.slices
    assert section is not None
    prompts: dict[str, Prompt] = {}
    sets: dict[str, set[str]] = {}
    failures: list[Failure] = []
    for own in section.sets:
        found, bad = _set(recipe, own)
        sets[own.name] = {prompt.id for prompt in found}
        prompts |= {prompt.id: joined(prompts.get(prompt.id), prompt) for prompt in found}
        failures += bad
    outside, judged = None, None
    if prompts:
        theirs, judged = asked(list(prompts.values()))
        named = {prompt: [name for name, ids in sets.items() if prompt in ids] for prompt in prompts}
        rows = [row | {"sets": named[row["prompt_id"]]} for row in sample_rows(theirs)]
        write_jsonl(run.slice_samples, rows)
        write_jsonl(run.slice_judgments, judged.judgments)
        outside = Asked.of(theirs)
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.evaluation_seed)
    return slices(section, Asked.of(inputs), outside, sets, inputs.constitution, bootstrap), judged, failures


def annotator_groups(recipe: Recipe, run: Run) -> list[dict[str, Any]]:
    """The people of `human_data` by the field that `evaluate.slices.annotators` names."""
    from rlaif.evaluation.subgroups import groups_of, subgroups
    from rlaif.stats import Bootstrap

    section, sources = recipe.evaluate.slices, recipe.preferences.human_data
    assert section is not None and section.annotators is not None
    groups = groups_of(sources, section.annotators)
    people = read_human(sources, run, recipe.prompts.system).judgments
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.evaluation_seed)
    return subgroups(people, read_if_there(run.judgments, Judgment), groups, section.min_prompts, bootstrap)


def _set(recipe: Recipe, one: SliceSet) -> tuple[list[Prompt], list[Failure]]:
    source = FileSource(path=one.path, tags=one.tags, limit=one.limit)
    found, known, bad = read_set(source, recipe.prompts)
    if known or bad:
        say(f"  slices: {one.name}: {known} prompts that the run has itself left out, {len(bad)} rows without a prompt")
    if not found:
        raise DataError(f"evaluate.slices.sets: {one.name}: {one.path} has no prompt that the run has not itself")
    return found, bad
