"""From prompts to preferences: the stages sample, label and pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.annotate.conflicts import conflicts
from rlaif.annotate.route import read_routing
from rlaif.audit.gate import check_requirement
from rlaif.config import Recipe
from rlaif.config.feedback import Calibrated, ContrastSample, Debiased, HumanLabels, MixedLabels, Reliable
from rlaif.config.judging import ReviseMode
from rlaif.config.needs import feedback_stages
from rlaif.console import bar, say
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.annotators.trust import trusted
from rlaif.feedback.calibration import apply_calibration
from rlaif.feedback.contrast_sample import Instructions, sample_contrasts
from rlaif.feedback.earlier import join
from rlaif.feedback.failures import causes, told
from rlaif.feedback.human import check_human_failures, read_human
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.judge.origin import Agreement, hold_to_origin, label_by_origin
from rlaif.feedback.judge.result import Results
from rlaif.feedback.judge.revise import first_responses, revise_responses
from rlaif.feedback.judge.shards import SHARD, shards
from rlaif.feedback.mix import MixResult, believed, for_the_judge, mix, overlap_of, within_share
from rlaif.feedback.origin import Crossing
from rlaif.feedback.pairs import (
    WeightedJudgment,
    read_preferences,
    to_preferences,
)
from rlaif.feedback.prompts import PromptSplit, read_prompts
from rlaif.feedback.sample import SampleResult, check_sample_failures
from rlaif.formats.sheet import HumanData
from rlaif.jsonl import read_jsonl, write_json, write_jsonl
from rlaif.models.cache.model import UNKNOWN
from rlaif.records import Judgment, Pair, Prompt
from rlaif.run import Run
from rlaif.stages.asking import asking, cost_of, draw_samples, made, shards_with_bar
from rlaif.stages.labels import LabelRows, SampledPairs, responses_by_prompt


def _human_labels(recipe: Recipe, run: Run) -> HumanData:
    """What people said, less what they said of prompts held out for evaluation: nothing may train on these."""
    data = read_human(recipe.preferences.labels.human_data, run, recipe.prompts.system)
    write_jsonl(run.human_failures, data.failures)
    check_human_failures(data, recipe.preferences.max_human_failures)
    split = read_prompts(recipe.prompts)
    if "sample" not in feedback_stages(recipe):
        _say_failures(split)
    heldout = {prompt.id for prompt in split.heldout}
    kept = data._replace(
        judgments=[judgment for judgment in data.judgments if judgment.pair.prompt_id not in heldout],
        edits=[edit for edit in data.edits if edit.prompt_id not in heldout],
        demonstrations=[shown for shown in data.demonstrations if shown.prompt_id not in heldout],
    )
    if not kept.judgments:
        raise DataError("preferences.labels.human_data: no usable human labels outside the held-out prompts")
    kept.counts["heldout"] = len(data.judgments) - len(kept.judgments)
    return kept


def _say_failures(split: PromptSplit) -> None:
    if split.failures:
        say(f"  prompts: {len(split.failures)} rows hold none: {told(split.failures)}")


def _facts_of(data: HumanData) -> dict[str, Any]:
    """What became of the rows, by cause."""
    counts: dict[str, Any] = {f"human_{name}": number for name, number in sorted(data.counts.items()) if number}
    return counts | ({"human_failures": causes(data.failures)} if data.failures else {})


def sample(recipe: Recipe, run: Run) -> dict[str, Any]:
    """responses.jsonl and sample_failures.jsonl: n responses of the untrained policy to every training prompt.

    With `by_tag` only to those that the judge may label. Failures are on disk before their share is held against the
    recipe's limit; a stage within it goes on without them. With `sample.contrast` half of each prompt's responses are
    written under either instruction.
    """
    split = read_prompts(recipe.prompts)
    _say_failures(split)
    prompts = for_the_judge(split.train, recipe.preferences.labels)
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

    An audit that the recipe requires is looked at before anything is asked. Rows are written as they come, and the
    files take their names when all are there. Failures are on disk before their share is held against the recipe's
    limit, and above it nothing more is asked. With `sample.contrast.labels=origin` no judge is opened.
    """
    calibration = check_requirement(recipe) if recipe.label.audit else None
    mode = recipe.label.mode
    work = _revisions(recipe, run, mode) if isinstance(mode, ReviseMode) else _labels(recipe, run)
    with ExitStack() as stack:
        rows = LabelRows(run, stack)
        for result in stack.enter_context(closing(work.results)):
            rows.add(result if calibration is None else apply_calibration(result, calibration))
            if rows.failures.too_many(work.asked, recipe.label):
                break
        rows.finish(work.asked, recipe.label)
    return {"pairs": work.asked, "unlabelled": work.asked - rows.judged, **cost_of(rows.cost), **work.facts}


class _Work(NamedTuple):
    """What the label stage does."""

    results: Results
    """Of each shard."""
    asked: int
    """Pairs, or responses to revise, in all."""
    facts: dict[str, Any]
    """What became of the rows of people's data, where pairs are taken from there, or which samples make no pair; and
    how often the judge agrees with the origin, known with the last result."""


def _labels(recipe: Recipe, run: Run) -> _Work:
    labels, contrast = recipe.preferences.labels, recipe.sample.contrast
    assert not isinstance(labels, HumanLabels)
    crossed: dict[str, Crossing] = {}
    pairs: Iterable[Pair]
    if labels.pairs == "human":
        data = _human_labels(recipe, run)
        different = {judgment.pair.id: judgment.pair for judgment in data.judgments}
        pairs, facts = for_the_judge(list(different.values()), labels), _facts_of(data)
        total = made_of = len(pairs)
    else:
        pairs = sampled = SampledPairs(recipe, made(run.responses, "sample"))
        facts, total, made_of, crossed = sampled.facts, sampled.total, sampled.made, sampled.crossed
    if contrast is None:
        return _Work(shards_with_bar(recipe, run, pairs, total, "label"), total, facts)
    if len(crossed) < made_of:
        raise DataError(f"{run.responses}: responses without `origin`, which sample.contrast gives; sample them again")
    if contrast.labels == "origin":
        return _Work(_origin_labels(recipe, pairs, crossed), total, facts)
    judged = shards_with_bar(recipe, run, pairs, total, "label")
    return _Work(_held_to_origin(judged, crossed, contrast.labels == "both", facts), total, facts)


def _origin_labels(recipe: Recipe, pairs: Iterable[Pair], crossed: Mapping[str, Crossing]) -> Results:
    constitution, revision = load_constitution(recipe.constitution), recipe.policy.revision or UNKNOWN
    for shard in shards(pairs, SHARD):
        yield label_by_origin(shard, crossed, recipe.sample, constitution, revision, recipe.seed)


def _held_to_origin(
    judged: Iterable[JudgeResult], crossed: Mapping[str, Crossing], agreed_only: bool, facts: dict[str, Any]
) -> Results:
    """The judge's labels of pairs of responses written under two instructions, and, said at the end, how often it
    prefers what was written under `for`."""
    agreement, total = Agreement(0, 0, 0), 0
    for shard in judged:
        result, own = hold_to_origin(shard, crossed, agreed_only)
        agreement = Agreement(*map(sum, zip(agreement, own, strict=True)))
        total += len(shard.judgments)
        yield result
    ties = "; the others become ties" if agreed_only else ""
    agreed = f"{agreement.judge_with_origin} of {total}"
    say(f"  the judge prefers the response written under `for` in {agreed} pairs{ties}")
    facts |= agreement._asdict()


def _revisions(recipe: Recipe, run: Run, mode: ReviseMode) -> _Work:
    groups = responses_by_prompt(made(run.responses, "sample"))
    asked = sum(len(first_responses(group, mode.responses_per_prompt)) for group in groups)

    def results() -> Results:
        constitution = load_constitution(recipe.constitution)
        responses = (response for group in groups for response in first_responses(group, mode.responses_per_prompt))
        with asking(recipe.judge, run) as model, bar("label", asked, "responses") as advance:
            while some := list(islice(responses, SHARD)):
                yield revise_responses(model, mode, some, constitution, recipe.label, recipe.seed, advance)

    return _Work(results(), asked, {})


def pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """preferences.jsonl: AI, human or mixed judgments become rows, and earlier rounds' rows join (`include`). The one
    stage where the three differ. Beside it what people left: edits, demonstrations, who of them is believed, and where
    they and the judge disagree."""
    labels = recipe.preferences.labels
    ai = [] if isinstance(labels, HumanLabels) else read_jsonl(made(run.judgments, "label"), Judgment)
    human, read = _trusted_labels(recipe, run) if isinstance(labels, HumanLabels | MixedLabels) else ([], {})
    dropped = 0
    if isinstance(labels, MixedLabels):
        weighted, dropped = _mixed(labels, run, ai, human)
    else:
        weighted = [WeightedJudgment(judgment, 1.0) for judgment in [*ai, *human]]
    result = to_preferences(weighted, recipe.preferences)
    if not result.rows:
        raise DataError("pairs: every pair is a tie; lower preferences.tie_margin or set preferences.ties=keep")
    rows, counts = result
    if recipe.preferences.include:
        heldout = {prompt.id for prompt in read_prompts(recipe.prompts).heldout}
        files = [Path(name).expanduser() for name in recipe.preferences.include]
        earlier = [row for file in files for row in read_preferences(file)]
        rows, joined = join(rows, earlier, heldout)
        counts = counts | joined
    write_jsonl(run.preferences, rows)
    return {**counts, "without_source": dropped, **read}


def _trusted_labels(recipe: Recipe, run: Run) -> tuple[list[Judgment], dict[str, Any]]:
    """One label a pair of the people who are believed, and how many rows became what; annotators.json says who is
    believed, and who is not."""
    section = recipe.preferences.annotators
    data = _human_labels(recipe, run)
    gold = read_human(section.gold, run, recipe.prompts.system) if section.gold else HumanData.empty()
    check_human_failures(gold, recipe.preferences.max_human_failures)
    found = trusted(data.judgments, gold.judgments, section, recipe.seed)
    write_json(run.annotators, found.examined.summary())
    for name, reason in found.examined.removed.items():
        say(f"  left out, all labels of {name}: {reason}")
    write_jsonl(run.human_edits, data.edits)
    write_jsonl(run.human_demonstrations, data.demonstrations)
    return found.judgments, _facts_of(data)


def _mixed(labels: MixedLabels, run: Run, ai: Sequence[Judgment], human: Sequence[Judgment]) -> MixResult:
    """Both sources by the policy, and conflicts.jsonl."""
    said = len(human)
    human = within_share(human, labels.human_share)
    write_jsonl(run.conflicts, conflicts(ai, human))
    mixed = mix(ai, human, labels.policy)
    mixed = mixed._replace(dropped=mixed.dropped + said - len(human))
    if not isinstance(labels.policy, Calibrated | Reliable | Debiased):
        return mixed
    routing = read_routing(run)
    overlap = overlap_of(ai, human, routing.picked if routing else ())
    rows = believed(mixed.judgments, overlap, labels.policy)
    return MixResult(rows, mixed.dropped + len(mixed.judgments) - len(rows))
