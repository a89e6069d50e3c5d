"""From prompts to judgments: the stages sample and label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audit.gate import check_requirement
from rlaif.config import Recipe
from rlaif.config.feedback import ContrastSample
from rlaif.config.judging import ReviseMode
from rlaif.console import bar, say
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.calibration import apply_calibration
from rlaif.feedback.contrast_sample import Instructions, sample_contrasts
from rlaif.feedback.failures import causes
from rlaif.feedback.judge import JudgeResult, check_failure_cap
from rlaif.feedback.judge.origin import hold_to_origin, label_by_origin
from rlaif.feedback.judge.revise import first_responses, revise_responses
from rlaif.feedback.mix import for_the_judge
from rlaif.feedback.origin import crossings, unpaired
from rlaif.feedback.pairs import (
    any_pair,
    apart_by_checks,
    make_pairs,
)
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import SampleResult, check_sample_failures
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.cache.model import UNKNOWN
from rlaif.records import Pair, Prompt, Response
from rlaif.resources import resolve
from rlaif.run import Run
from rlaif.stages.asking import asking, cost_of, draw_samples, judge_with_bar, made
from rlaif.stages.pairs import facts_of, human_labels, say_failures
from rlaif.stages.stage import Stage, constitution_file, human_files, judge_files, model_files, prompt_files


def sample(recipe: Recipe, run: Run) -> dict[str, Any]:
    """responses.jsonl and sample_failures.jsonl: n responses of the untrained policy to every training prompt.

    With `by_tag` only to those that the judge may label. Failures are on disk before their share is held against the
    recipe's limit; a stage within it goes on without them. With `sample.contrast` half of each prompt's responses are
    written under either instruction.
    """
    split = read_prompts(recipe.prompts)
    say_failures(split)
    prompts = for_the_judge(split.train, recipe.preferences.judged_tags)
    if recipe.sample.contrast is None:
        result = draw_samples(recipe, run, recipe.policy, prompts, "sample")
    else:
        result = _draw_contrasts(recipe, run, recipe.sample.contrast, prompts)
    write_jsonl(run.sample_failures, result.failures)
    check_sample_failures(result, recipe.label.max_failures, "sample")
    write_jsonl(run.responses, result.responses)
    principles = {r.prompt_id: r.origin.principle for r in result.responses if r.origin}
    by_principle = dict(Counter(principles.values()).most_common())
    return {
        "responses": len(result.responses),
        "failed": len(result.failures),
        "completion_tokens": result.completion_tokens,
        **({"prompt_failures": causes(split.failures)} if split.failures else {}),
        **({"prompts_by_principle": by_principle} if by_principle else {}),
    }


def _draw_contrasts(recipe: Recipe, run: Run, section: ContrastSample, prompts: Sequence[Prompt]) -> SampleResult:
    instructions = Instructions.of(section, load_constitution(recipe.constitution))
    total = len(prompts) * recipe.sample.responses_per_prompt
    with asking(recipe.policy, run) as model, bar("sample", total, "responses") as advance:
        return sample_contrasts(model, prompts, instructions, recipe.sample, recipe.seed, "sample", advance)


def label(recipe: Recipe, run: Run) -> dict[str, Any]:
    """judgments.jsonl and failures.jsonl, and what the mode keeps besides: scores, rankings, revisions, demonstrations.

    An audit that the recipe requires is looked at before anything is asked. Failures are on disk before their share is
    held against the recipe's limit. With `sample.contrast.labels=origin` no judge is opened.
    """
    calibration = check_requirement(recipe) if recipe.label.audit else None
    facts: dict[str, Any] = {}
    if isinstance(recipe.label.mode, ReviseMode):
        result, asked = _revise(recipe, run, recipe.label.mode)
    else:
        pairs, responses, facts = _pairs_to_label(recipe, run)
        asked = len(pairs)
        if recipe.sample.contrast is None:
            result = judge_with_bar(recipe, run, pairs, "label")
        else:
            result, agreement = _label_contrasts(recipe, run, recipe.sample.contrast, pairs, responses)
            facts |= agreement
    if calibration is not None:
        result = apply_calibration(result, calibration)
    write_jsonl(run.failures, result.failures)
    check_failure_cap(result, asked, recipe.label)
    for path, rows in (
        (run.scores, result.scores),
        (run.rankings, result.rankings),
        (run.revisions, result.revisions),
        (run.demonstrations, result.demonstrations),
        (run.reliability, result.reliability),
    ):
        if rows:
            write_jsonl(path, rows)
    write_jsonl(run.judgments, result.judgments)
    return {"pairs": asked, "unlabelled": asked - len(result.judgments), **cost_of(result), **facts}


def _label_contrasts(
    recipe: Recipe, run: Run, section: ContrastSample, pairs: Sequence[Pair], responses: Sequence[Response]
) -> tuple[JudgeResult, dict[str, int]]:
    """Pairs of responses written under two instructions, labelled as the section says; how often the judge, if it was
    asked, prefers what was written under `for`."""
    crossed = crossings(pairs, responses)
    if len(crossed) < len(pairs):
        raise DataError(f"{run.responses}: responses without `origin`, which sample.contrast gives; sample them again")
    if section.labels == "origin":
        constitution, revision = load_constitution(recipe.constitution), recipe.policy.revision or UNKNOWN
        return label_by_origin(pairs, crossed, recipe.sample, constitution, revision, recipe.seed), {}
    judged = judge_with_bar(recipe, run, pairs, "label")
    result, agreement = hold_to_origin(judged, crossed, section.labels == "both")
    ties = "; the others become ties" if section.labels == "both" else ""
    agreed = f"{agreement.judge_with_origin} of {len(judged.judgments)}"
    say(f"  the judge prefers the response written under `for` in {agreed} pairs{ties}")
    return result, agreement._asdict()


class _ToLabel(NamedTuple):
    pairs: list[Pair]
    """Each once."""
    responses: list[Response]
    """What they are made of; none where they are people's."""
    facts: dict[str, Any]
    """What became of the rows of people's data, where they are taken from there, or which samples make no pair."""


def _pairs_to_label(recipe: Recipe, run: Run) -> _ToLabel:
    responses: list[Response] = []
    if recipe.preferences.pairs == "human":
        data = human_labels(recipe, run)
        pairs, facts = [judgment.pair for judgment in data.judgments], facts_of(data)
    else:
        responses = read_jsonl(made(run.responses, "sample"), Response)
        prompts = {r.prompt_id: Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags) for r in responses}
        by_checks = recipe.label.pair_choice == "checks"
        worth = apart_by_checks(load_constitution(recipe.constitution)) if by_checks else any_pair
        pairs = make_pairs(list(prompts.values()), responses, recipe.label.pairs_per_prompt, recipe.seed, worth)
        facts = unpaired(responses)
    pairs = for_the_judge(list({pair.id: pair for pair in pairs}.values()), recipe.preferences.judged_tags)
    return _ToLabel(pairs, responses, facts)


def _revise(recipe: Recipe, run: Run, mode: ReviseMode) -> tuple[JudgeResult, int]:
    """The revisions, and how many responses were to be revised."""
    responses = first_responses(read_jsonl(made(run.responses, "sample"), Response), mode.responses_per_prompt)
    constitution = load_constitution(recipe.constitution)
    with asking(recipe.judge, run) as model, bar("label", len(responses), "responses") as advance:
        result = revise_responses(model, mode, responses, constitution, recipe.label, recipe.seed, advance)
    return result, len(responses)


def _instruction_files(recipe: Recipe) -> list[Path]:
    """What `sample.contrast` says to the policy: constitution and template."""
    contrast = recipe.sample.contrast
    return [constitution_file(recipe), resolve("prompts/judge", contrast.template)] if contrast else []


def _by_origin(recipe: Recipe) -> bool:
    """Whether labels say where responses came from, and how they were drawn."""
    return recipe.sample.contrast is not None and recipe.sample.contrast.labels == "origin"


def _human_pair_files(recipe: Recipe, run: Run) -> list[Path]:
    return [*human_files(recipe.preferences.human_data, run), *prompt_files(recipe)]


HUMAN_PAIRS = ("preferences.human_data", "preferences.max_human_failures", "prompts")
SAMPLE = Stage(
    "sample",
    sample,
    knobs=lambda recipe: [
        "seed",
        "policy",
        "prompts",
        "sample",
        "label.max_failures",
        "preferences.judged_tags",
        *(["constitution"] if recipe.sample.contrast else []),
    ],
    inputs=lambda recipe, run: [*prompt_files(recipe), *model_files(recipe.policy), *_instruction_files(recipe)],
    outputs=lambda run: [run.responses, run.sample_failures],
)
LABEL = Stage(
    "label",
    label,
    knobs=lambda recipe: [
        "seed",
        "constitution",
        "judge",
        "label",
        *(["sample", "policy"] if _by_origin(recipe) else ["sample.contrast"]),
        "preferences.pairs",
        "preferences.judged_tags",
        *(HUMAN_PAIRS if recipe.preferences.pairs == "human" else []),
    ],
    inputs=lambda recipe, run: [
        run.responses,
        *judge_files(recipe),
        *_instruction_files(recipe),
        *([Path(recipe.label.audit.file).expanduser()] if recipe.label.audit else []),
        *(_human_pair_files(recipe, run) if recipe.preferences.pairs == "human" else []),
    ],
    outputs=lambda run: [run.judgments, run.failures, *run.evidence],
)
