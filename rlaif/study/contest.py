"""All arms' answers to the held-out prompts against each other and the reference's, by a judge that trained no arm.

Every pair of arms meets on every prompt, seed by seed, so that comparisons are paired. Texts that are equal are a tie
and nobody is asked. A pair that the judge failed on is in contest/failures.jsonl and in no figure. Next: `figures.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.annotate.publish import publish
from rlaif.config import Recipe
from rlaif.digest import hash_path
from rlaif.errors import DataError
from rlaif.feedback.judge import check_failure_cap
from rlaif.feedback.prompts import read_prompts
from rlaif.forms import OBJECT, SAMPLE
from rlaif.jsonl import read_json, read_jsonl, read_rows, write_json, write_jsonl
from rlaif.records import Judgment, Pair, Prompt
from rlaif.run_folder import Run
from rlaif.stages.stage import judge_files, judge_with_bar, read_if_there
from rlaif.study.config import REFERENCE, ArmRun, Study, shared_recipe


class ContestAnswer(NamedTuple):
    """One response of an arm, or of the policy before training."""

    arm: str
    seed: int
    text: str
    words: int


class Matchup(NamedTuple):
    """Two arms' answers to a prompt."""

    prompt_id: str
    pair: Pair
    one: ContestAnswer
    other: ContestAnswer


def hold_contest(study: Study, folder: Path, runs: Sequence[ArmRun]) -> None:
    """contest/judgments.jsonl: the judge on every pair of different answers, each pair once."""
    run = Run(folder / "contest")
    recipe = contest_recipe(study)
    met = list(meetings(runs, prompts_of(study)))
    pairs = {meeting.pair.id: meeting.pair for meeting in met if meeting.one.text != meeting.other.text}
    asked = list(pairs.values())
    mark, identity = run.folder / "asked.json", _identity(recipe, asked)
    before = read_json(mark, OBJECT) if mark.exists() and run.judgments.exists() else {}
    if {key: before.get(key) for key in identity} != identity:
        run.folder.mkdir(parents=True, exist_ok=True)
        result = judge_with_bar(recipe, run, asked, "contest")
        write_jsonl(run.failures, result.failures)
        check_failure_cap(result, len(asked), recipe.label)
        write_jsonl(run.judgments, result.judgments)
        write_jsonl(run.route, asked)
        write_json(mark, identity | {"cost": result.cost.facts})


def contest_recipe(study: Study) -> Recipe:
    """The recipe by which the contest is judged: the study's judge and constitution, compared in both orders."""
    recipe = shared_recipe(study)
    changes: dict[str, Any] = {"judge": study.judge or recipe.judge, "name": f"{study.name}-contest"}
    if study.constitution:
        changes["constitution"] = study.constitution
    return recipe.model_copy(update=changes)


def prompts_of(study: Study) -> dict[str, Prompt]:
    """The held-out prompts by id: evaluation's rows have no tags."""
    return {prompt.id: prompt for prompt in read_prompts(shared_recipe(study).prompts).heldout}


def _identity(recipe: Recipe, asked: Sequence[Pair]) -> dict[str, Any]:
    return {
        "pairs": [pair.id for pair in asked],
        "judge": recipe.judge.model_dump(mode="json"),
        "label": recipe.label.model_dump(mode="json"),
        "seed": recipe.seed,
        "files": [hash_path(file) for file in judge_files(recipe)],
    }


def meetings(runs: Sequence[ArmRun], prompts: dict[str, Prompt]) -> Iterator[Matchup]:
    """Every two arms, the reference among them, on every prompt and sample index that both answered, seed by seed."""
    for seed in dict.fromkeys(run.seed for run in runs):
        answers: dict[tuple[str, int], list[ContestAnswer]] = {}
        for run in runs:
            if run.seed == seed:
                for key, answer in _answers(run, prompts):
                    answers.setdefault(key, []).append(answer)
        for (prompt_id, _), given in answers.items():
            distinct = list({answer.arm: answer for answer in given}.values())
            for one, other in combinations(distinct, 2):
                yield Matchup(prompt_id, Pair.of(prompts[prompt_id], one.text, other.text), one, other)


def samples_of(run: ArmRun, prompts: dict[str, Prompt]) -> list[dict[str, Any]]:
    """The rows of the run's evaluation_samples.jsonl. DataError for one of a prompt that is not held out."""
    rows = read_rows(run.run.samples, SAMPLE)
    for number, row in enumerate(rows, start=1):
        if row["prompt_id"] not in prompts:
            raise DataError(f"{run.run.samples}: row {number}: no held-out prompt has the id {row['prompt_id']!r}")
    return rows


def _answers(run: ArmRun, prompts: dict[str, Prompt]) -> Iterator[tuple[tuple[str, int], ContestAnswer]]:
    for row in samples_of(run, prompts):
        key = row["prompt_id"], row["index"]
        for arm, text in ((REFERENCE, row["before"]), (run.arm, row["after"])):
            yield key, ContestAnswer(arm, run.seed, text, len(text.split()))


def verdicts(folder: Path) -> dict[str, list[Judgment]]:
    """The contest's judgments, the judge's and, where `rlaif annotate` was used on it, people's."""
    run = Run(folder / "contest")
    publish(run)
    return {"judge": read_jsonl(run.judgments, Judgment), "people": read_if_there(run.annotations, Judgment)}
