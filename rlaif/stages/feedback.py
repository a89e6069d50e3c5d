"""From prompts to judgments: the stages sample and label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audits.requirement import check_requirement
from rlaif.config import Recipe
from rlaif.config.feedback import ContrastSample
from rlaif.config.judging import ReviseMode
from rlaif.console import bar, say
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.calibration import apply_calibration
from rlaif.feedback.failures import causes
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.judge.result import Piece, Results
from rlaif.feedback.judge.revise import first_responses, revise_responses
from rlaif.feedback.judge.shards import SHARD, shards
from rlaif.feedback.mix import for_the_judge
from rlaif.feedback.origin import (
    Instructions,
    OriginAgreement,
    PairOrigin,
    hold_to_origin,
    label_by_origin,
    sample_contrasts,
)
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import SampleResult, check_sample_failures, sample_responses
from rlaif.jsonl import write_jsonl
from rlaif.models.cache.model import UNKNOWN
from rlaif.records import Pair, Prompt
from rlaif.resources import resolve
from rlaif.run_folder import Run
from rlaif.stages.labels import LabelRows, SampledPairs, responses_by_prompt
from rlaif.stages.pairs import facts_of, human_labels, say_failures
from rlaif.stages.parts import LabelParts, after
from rlaif.stages.stage import (
    Stage,
    asking,
    human_files,
    judge_files,
    made,
    model_files,
    prompt_files,
    shards_with_bar,
    speaking,
    user_files,
)


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
        result = _draw(recipe, run, prompts)
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
        **({"prompt_failures": causes(lost)} if (lost := (*split.failures, *split.dropped)) else {}),
        **({"masked": dict(split.masked)} if split.masked else {}),
        **({"prompts_by_principle": by_principle} if by_principle else {}),
    }


def _draw(recipe: Recipe, run: Run, prompts: Sequence[Prompt]) -> SampleResult:
    total = len(prompts) * recipe.sample.responses_per_prompt
    with speaking(recipe, run, recipe.policy, "sample", total) as speakers:
        return sample_responses(speakers, prompts, recipe.sample, recipe.seed, "sample")


def _draw_contrasts(recipe: Recipe, run: Run, section: ContrastSample, prompts: Sequence[Prompt]) -> SampleResult:
    instructions = Instructions.of(section, load_constitution(recipe.constitution))
    total = len(prompts) * recipe.sample.responses_per_prompt
    with speaking(recipe, run, recipe.policy, "sample", total) as speakers:
        return sample_contrasts(speakers, prompts, instructions, recipe.sample, recipe.seed, "sample")


def label(recipe: Recipe, run: Run) -> dict[str, Any]:
    """judgments.jsonl and failures.jsonl, and what the mode keeps besides: scores, rankings, revisions, demonstrations.

    An audit that the recipe requires is looked at before anything is asked. Rows are written as they come, and the
    files take their names when all are there. Failures are on disk before their share is held against the recipe's
    limit, and above it nothing more is asked. With `sample.contrast.labels=origin` no judge is opened.
    """
    calibration = check_requirement(recipe) if recipe.label.audit else None
    mode, parts = recipe.label.mode, recipe.label.parts
    with ExitStack() as stack:
        rows = LabelParts(run, stack, parts) if parts else LabelRows(run, stack)
        work = _revisions(recipe, run, mode) if isinstance(mode, ReviseMode) else _labels(recipe, run, rows.done)
        for result in stack.enter_context(closing(work.results)):
            rows.add(result if calibration is None else apply_calibration(result, calibration))
            if not isinstance(result, Piece) and rows.failures.too_many(work.asked, recipe.label):
                break
        rows.finish(work.asked, recipe.label)
    return {"pairs": work.asked, "unlabelled": work.asked - rows.judged, **rows.cost.facts, **work.facts}


class _Labelling(NamedTuple):
    """What the label stage does."""

    results: Results
    """Of each shard."""
    asked: int
    """Pairs, or responses to revise, in all."""
    facts: dict[str, Any]
    """What became of the rows of people's data, where pairs are taken from there, or which samples make no pair; and
    how often the judge agrees with the origin, known with the last result."""


def _labels(recipe: Recipe, run: Run, done: int) -> _Labelling:
    contrast = recipe.sample.contrast
    crossed: dict[str, PairOrigin] = {}
    pairs: Iterable[Pair]
    if recipe.preferences.pairs == "human":
        data = human_labels(recipe, run)
        different = {judgment.pair.id: judgment.pair for judgment in data.judgments}
        pairs, facts = for_the_judge(list(different.values()), recipe.preferences.judged_tags), facts_of(data)
        total = made_of = len(pairs)
    else:
        pairs = sampled = SampledPairs(recipe, made(run.responses, "sample"))
        facts, total, made_of, crossed = sampled.facts, sampled.total, sampled.made, sampled.crossed
    if contrast is None and done:
        say(f"  {done} of {total} pairs are labelled already")
    if contrast is None:
        if done and done == total:  # no judge need be opened
            return _Labelling(_nothing(), total, facts)
        return _Labelling(shards_with_bar(recipe, run, after(pairs, done), total - done, "label"), total, facts)
    if len(crossed) < made_of:
        raise DataError(f"{run.responses}: responses without `origin`, which sample.contrast gives; sample them again")
    if contrast.labels == "origin":
        return _Labelling(_origin_labels(recipe, pairs, crossed), total, facts)
    judged = shards_with_bar(recipe, run, pairs, total, "label")
    return _Labelling(_held_to_origin(judged, crossed, contrast.labels == "both", facts), total, facts)


def _nothing() -> Results:
    yield from ()


def _origin_labels(recipe: Recipe, pairs: Iterable[Pair], crossed: Mapping[str, PairOrigin]) -> Results:
    constitution, revision = load_constitution(recipe.constitution), recipe.policy.revision or UNKNOWN
    for shard in shards(pairs, SHARD):
        yield label_by_origin(shard, crossed, recipe.sample, constitution, revision, recipe.seed)


def _held_to_origin(
    judged: Iterable[JudgeResult], crossed: Mapping[str, PairOrigin], agreed_only: bool, facts: dict[str, Any]
) -> Results:
    """The judge's labels of pairs of responses written under two instructions, and, said at the end, how often it
    prefers what was written under `for`."""
    agreement, total = OriginAgreement(0, 0, 0), 0
    for shard in judged:
        result, own = hold_to_origin(shard, crossed, agreed_only)
        agreement = OriginAgreement(*map(sum, zip(agreement, own, strict=True)))
        total += len(shard.judgments)
        yield result
    ties = "; the others become ties" if agreed_only else ""
    agreed = f"{agreement.judge_with_origin} of {total}"
    say(f"  the judge prefers the response written under `for` in {agreed} pairs{ties}")
    facts |= agreement._asdict()


def _revisions(recipe: Recipe, run: Run, mode: ReviseMode) -> _Labelling:
    groups = responses_by_prompt(made(run.responses, "sample"))
    asked = sum(len(first_responses(group, mode.responses_per_prompt)) for group in groups)

    def results() -> Results:
        constitution = load_constitution(recipe.constitution)
        responses = (response for group in groups for response in first_responses(group, mode.responses_per_prompt))
        with asking(recipe.judge, run) as model, bar("label", asked, "responses") as advance:
            while some := list(islice(responses, SHARD)):
                yield revise_responses(model, mode, some, constitution, recipe.label, recipe.seed, advance)

    return _Labelling(results(), asked, {})


def _instruction_files(recipe: Recipe) -> list[Path]:
    """What `sample.contrast` says to the policy: constitution and template."""
    if recipe.sample.contrast is None:
        return []
    return [resolve("constitutions", recipe.constitution), resolve("prompts/judge", recipe.sample.contrast.template)]


def _by_origin(recipe: Recipe) -> bool:
    """Whether labels say where responses came from, and how they were drawn."""
    return recipe.sample.contrast is not None and recipe.sample.contrast.labels == "origin"


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
    inputs=lambda recipe, run: [
        *prompt_files(recipe),
        *model_files(recipe.policy),
        *user_files(recipe),
        *_instruction_files(recipe),
    ],
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
        *(human_files(recipe.preferences.human_data, run) if recipe.preferences.pairs == "human" else []),
        *(prompt_files(recipe) if recipe.preferences.pairs == "human" else []),
    ],
    outputs=lambda run: [run.judgments, run.failures, *run.evidence],
)
