"""What evaluation asks about truth beside the comparison: the same held-out question with the user's opinion turned
round, answered by both models, and whether the two answers contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rlaif.config import Recipe
from rlaif.constitution import load_constitution
from rlaif.evaluation.truth import Flips, mode_of
from rlaif.feedback.judge.drive import drive
from rlaif.feedback.judge.reference import flipped, opened
from rlaif.feedback.judge.result import Cost
from rlaif.formats.given import opposite
from rlaif.records import Prompt, Response, prompt_of
from rlaif.run_folder import Run
from rlaif.stages.stage import asking


def opposite_prompts(prompts: Sequence[Prompt]) -> dict[str, Prompt]:
    """The same prompts with the opposite opinion, by the id of the prompt, of those that have one."""
    return {prompt.id: turned for prompt in prompts if (turned := opposite(prompt)) is not None}


def ask_flips(
    recipe: Recipe, run: Run, opposite: dict[str, Prompt], before: Sequence[Response], after: Sequence[Response]
) -> tuple[Flips, Cost]:
    """How likely the answers of each model to a prompt and to its opposite contradict each other, in the mean over the
    indices and both orders; None where the judge does not say."""
    if not opposite:
        return {}, Cost()
    template = opened(mode_of(recipe).contradict, "contradict")
    common = (load_constitution(recipe.constitution).preamble, recipe.label.min_label_mass)
    known = [{(r.prompt_id, r.index): r for r in responses} for responses in (before, after)]
    asked = [
        (name, which, flipped(template, prompt_of(one), one.text, other.text, *common))
        for which, responses in enumerate(known)
        for (name, index), one in responses.items()
        if name in opposite and (other := responses.get((opposite[name].id, index))) is not None
    ]
    with asking(recipe.judge, run) as judge:
        found, cost = drive(judge, (each for _, _, each in asked))
    values: dict[tuple[str, int], list[float | None]] = {}
    for (name, which, _), value in zip(asked, found, strict=True):
        values.setdefault((name, which), []).append(value)
    means = {
        place: None if None in these else fmean(v for v in these if v is not None) for place, these in values.items()
    }
    return {name: (means.get((name, 0)), means.get((name, 1))) for name in opposite}, cost
