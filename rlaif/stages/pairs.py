"""From judgments and what people said to preferences: the stage pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.annotate.route import conflicts, read_routing
from rlaif.config import Recipe
from rlaif.config.feedback import AiLabels, CalibratedMix, DebiasedMix, HumanLabels, MixedLabels, ReliabilityMix
from rlaif.console import say
from rlaif.errors import DataError
from rlaif.feedback.annotators.trust import trusted
from rlaif.feedback.failures import causes, told
from rlaif.feedback.human import check_human_failures, read_human
from rlaif.feedback.mix import MixResult, believed, mix, overlap_of, within_share
from rlaif.feedback.pairs import WeightedJudgment, join, read_preferences, to_preferences
from rlaif.feedback.prompts import PromptSplit, not_to_train_on, read_prompts
from rlaif.formats.sheet import HumanData
from rlaif.jsonl import read_jsonl, write_json, write_jsonl
from rlaif.records import Judgment
from rlaif.run_folder import Run
from rlaif.stages.stage import Stage, human_files, made, prompt_files


def _what_people_said(recipe: Recipe, run: Run) -> HumanData:
    """All of it; the rows that failed are in human_failures.jsonl."""
    data = read_human(recipe.preferences.human_data, run, recipe.prompts.system)
    write_jsonl(run.human_failures, data.failures)
    check_human_failures(data, recipe.preferences.max_human_failures)
    return data


def human_labels(recipe: Recipe, run: Run) -> HumanData:
    """What people said, less what they said of prompts held out for evaluation, and of what overlaps with them where
    `prompts.filters.decontaminate` asks for it: nothing may train on these."""
    data = _what_people_said(recipe, run)
    split = read_prompts(recipe.prompts)
    if recipe.preferences.pairs == "human":  # else the stage sample has said it
        say_failures(split)
    asked = {judgment.pair.prompt_id: judgment.pair.prompt for judgment in data.judgments}
    asked |= {one.prompt_id: one.prompt for rows in (data.edits, data.demonstrations) for one in rows}
    heldout = not_to_train_on(recipe.prompts, split, asked)
    kept = data._replace(
        judgments=[judgment for judgment in data.judgments if judgment.pair.prompt_id not in heldout],
        edits=[edit for edit in data.edits if edit.prompt_id not in heldout],
        demonstrations=[shown for shown in data.demonstrations if shown.prompt_id not in heldout],
    )
    if not kept.judgments:
        raise DataError("preferences.labels.human_data: no usable human labels outside the held-out prompts")
    kept.counts["heldout"] = len(data.judgments) - len(kept.judgments)
    return kept


def say_failures(split: PromptSplit) -> None:
    if split.failures:
        say(f"  prompts: {len(split.failures)} rows hold none: {told(split.failures)}")
    if split.dropped:
        say(f"  prompts: {len(split.dropped)} dropped by prompts.filters: {told(split.dropped)}")
    if split.masked:
        say(f"  prompts: personal data masked: {', '.join(f'{kind} {count}' for kind, count in split.masked)}")


def facts_of(data: HumanData) -> dict[str, Any]:
    """What became of the rows, by cause."""
    counts: dict[str, Any] = {f"human_{name}": number for name, number in sorted(data.counts.items()) if number}
    return counts | ({"human_failures": causes(data.failures)} if data.failures else {})


def pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """preferences.jsonl: AI, human or mixed judgments become rows, and earlier rounds' rows join (`include`). The one
    stage where the three differ. Beside it what people left: edits, demonstrations, who of them is believed, and where
    they and the judge disagree."""
    labels = recipe.preferences.labels
    ai = [] if isinstance(labels, HumanLabels) else read_jsonl(made(run.judgments, "label"), Judgment)
    human, read = _trusted_labels(recipe, run) if isinstance(labels, HumanLabels | MixedLabels) else ([], {})
    if isinstance(labels, AiLabels) and recipe.preferences.pairs == "human":
        _what_people_said(recipe, run)  # label took their pairs; which rows failed is an output of this stage
    dropped = 0
    if isinstance(labels, MixedLabels):
        weighted, dropped = _mixed(labels, run, ai, human)
    else:
        weighted = [WeightedJudgment(judgment, 1.0) for judgment in [*ai, *human]]
    result = to_preferences(weighted, recipe.preferences)
    if not weighted:
        raise DataError(f"pairs: there is no judgment to train on, neither in {run.judgments} nor of people")
    if not result.rows:
        raise DataError("pairs: every pair is a tie; lower preferences.tie_margin or set preferences.ties=keep")
    rows, counts = result
    if recipe.preferences.include:
        heldout = {prompt.id for prompt in read_prompts(recipe.prompts).heldout}
        earlier = [row for name in recipe.preferences.include for row in read_preferences(_included(name))]
        rows, joined = join(rows, earlier, heldout)
        counts = counts | joined
    write_jsonl(run.preferences, rows)
    return {**counts, "without_source": dropped, **read}


def _trusted_labels(recipe: Recipe, run: Run) -> tuple[list[Judgment], dict[str, Any]]:
    """One label a pair of the people who are believed, and how many rows became what; annotators.json says who is
    believed, and who is not."""
    section = recipe.preferences.annotators
    data = human_labels(recipe, run)
    gold = read_human(section.gold, run, recipe.prompts.system) if section.gold else HumanData.empty()
    check_human_failures(gold, recipe.preferences.max_human_failures)
    found = trusted(data.judgments, gold.judgments, section, recipe.seed)
    write_json(run.annotators, found.examined.summary())
    for name, reason in found.examined.removed.items():
        say(f"  left out, all labels of {name}: {reason}")
    write_jsonl(run.human_edits, data.edits)
    write_jsonl(run.human_demonstrations, data.demonstrations)
    return found.judgments, facts_of(data)


def _mixed(labels: MixedLabels, run: Run, ai: Sequence[Judgment], human: Sequence[Judgment]) -> MixResult:
    """Both sources by the policy, and conflicts.jsonl."""
    said = len(human)
    human = within_share(human, labels.human_share)
    write_jsonl(run.conflicts, conflicts(ai, human))
    mixed = mix(ai, human, labels.policy)
    mixed = mixed._replace(dropped=mixed.dropped + said - len(human))
    if not isinstance(labels.policy, CalibratedMix | ReliabilityMix | DebiasedMix):
        return mixed
    routing = read_routing(run)
    overlap = overlap_of(ai, human, routing.picked if routing else ())
    rows = believed(mixed.judgments, overlap, labels.policy)
    return MixResult(rows, mixed.dropped + len(mixed.judgments) - len(rows))


def _included(name: str) -> Path:
    return Path(name).expanduser()


PAIRS = Stage(
    "pairs",
    pairs,
    knobs=lambda recipe: ["seed", "preferences", "prompts"],
    inputs=lambda recipe, run: [
        run.judgments,
        run.routing,
        *human_files([*recipe.preferences.human_data, *recipe.preferences.annotators.gold], run),
        *map(_included, recipe.preferences.include),
        *prompt_files(recipe),
    ],
    outputs=lambda run: [
        run.preferences,
        run.human_failures,
        run.human_edits,
        run.human_demonstrations,
        run.annotators,
        run.conflicts,
    ],
)
