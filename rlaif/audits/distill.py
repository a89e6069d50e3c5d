"""Inverse constitutional AI: from labelled pairs to the constitution that explains them (arXiv 2406.06560).

`proposals.py` asks the judge why people preferred what they did and joins what says the same, `votes.py` tests each
candidate alone on pairs of other prompts and keeps those that predict the labels. Here all of it is done and written:
a constitution, and a report (JSON) of every proposal and candidate, with why it was dropped. Without a survivor there
is only the report. What survives explains these labels; other constitutions may explain them as well. Equal work gives
equal files, as far as the judge replies equally.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audits.gold import read_demonstrated, read_gold
from rlaif.audits.judge_training.record import refuse_seen
from rlaif.audits.judges import open_judges
from rlaif.audits.proposals import Candidate, DistillSettings, ProposalResult, merge, propose
from rlaif.audits.votes import CandidateTest, constitution_of, select, vote
from rlaif.config import Recipe
from rlaif.config.judging import CompareMode
from rlaif.console import bar
from rlaif.constitution import Constitution, write_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge.result import Cost
from rlaif.jsonl import write_json
from rlaif.models.engine import Engine
from rlaif.records import Judgment, content_id, derive_seed
from rlaif.stats import Bootstrap
from rlaif.templates import JudgeTemplate, load_template
from rlaif.words import percent, with_interval

SCHEMA = "rlaif/distillation/v1"


class Distillation(NamedTuple):
    """What came of it. Without survivors `kept` is empty, `constitution` and `path` are None."""

    kept: tuple[CandidateTest, ...]
    constitution: Constitution | None
    path: Path | None
    report: Path
    document: dict[str, Any]
    """The report; its `sentence` says what came of it."""


class _Steps(NamedTuple):
    """What each step made."""

    proposed: ProposalResult
    merged: list[Candidate]
    tested: list[CandidateTest]
    cost: Cost


def distill(
    recipe: Recipe,
    gold: Sequence[Path],
    out: Path,
    settings: DistillSettings | None = None,
    samples: Path | None = None,
) -> Distillation:
    """Distil these files of human labels with the recipe's judge; write `out` (YAML) and the JSON report beside it.

    With `samples`, responses.jsonl of a run, the only file holds demonstrations, each of them preferred to a sample.

    Half of the prompts, by hash, serve for proposals and the others for the vote; human ties are left out. The judge
    votes by `compare`, with the recipe's template if that is the recipe's mode. Raises ConfigError for an `out` that is
    no YAML file, DataError for labels that leave one half empty.
    """
    settings = settings or DistillSettings()
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{out}: the constitution to write must be a .yaml file; the report goes beside it as .json")
    labels = read_gold(gold) if samples is None else read_demonstrated(gold[0], samples, recipe.prompts.system)
    what = "human labels" if samples is None else "demonstrations against samples"
    refuse_seen(recipe, [label.pair for label in labels.judgments])
    ours, theirs = halves(labels.judgments, settings, recipe.seed)
    mode = recipe.label.mode
    asking = load_template("propose", "propose")
    voting = load_template(mode.template if isinstance(mode, CompareMode) else CompareMode().template, "compare")
    with open_judges(recipe.judge, str(out.resolve())) as judges, judges.cached(None) as model:
        steps = _steps(model, recipe, ours, theirs, (asking, voting), settings)
        judge = {"name": model.name, "revision": model.revision}
    kept = tuple(t for t in steps.tested if t.rejected is None)
    report = out.with_suffix(".json")
    constitution = None
    if kept:
        names = ", ".join(file.name for file in labels.files)
        chosen = [tested.candidate for tested in kept]
        constitution = constitution_of(chosen, _id(out.stem), f"What the labels of {names} reward")
        origin = [
            f"Distilled from {what} (inverse constitutional AI, arXiv 2406.06560); report: {report.name}",
            f"Labels: {names}. Judge: {judge['name']}, revision {judge['revision']}.",
        ]
        measured = _measured(kept, len(theirs), recipe.evaluate.confidence, settings.alpha)
        write_constitution(out, constitution, "\n".join([*origin, *measured]))
    document = {
        "schema": SCHEMA,
        "sentence": _sentence(steps, kept),
        "constitution": constitution and {"id": constitution.id, "hash": constitution.hash},
        "judge": judge,
        "templates": {template.name: template.hash for template in (asking, voting)},
        "seed": recipe.seed,
        "settings": settings.model_dump(mode="json"),
        "gold": [file._asdict() for file in labels.files],
        "pairs": {"proposing": len(ours), "voting": len(theirs)},
        **_figures(steps, settings),
    }
    write_json(report, document)
    return Distillation(kept, constitution, out if kept else None, report, document)


def halves(labels: Sequence[Judgment], settings: DistillSettings, seed: int) -> tuple[list[Judgment], list[Judgment]]:
    """(labels to propose from, labels to vote on), a seeded draw of each: no prompt is in both.

    A prompt's hash alone decides its half. Human ties are left out. DataError for an empty half.
    """
    halves: tuple[list[Judgment], list[Judgment]] = ([], [])
    for label in labels:
        if label.p_a != 0.5:
            halves[int(content_id("distill", label.pair.prompt_id), 16) % 2].append(label)
    if not all(halves):
        raise DataError(
            f"distill: {len(labels)} labelled pairs leave {len(halves[0])} to propose from and {len(halves[1])} of "
            "other prompts to test on; it takes dozens of prompts"
        )
    proposing, voting = (
        sorted(half, key=lambda label: derive_seed(seed, "distill", label.pair.id))[:most]
        for half, most in zip(halves, (settings.proposals, settings.votes), strict=True)
    )
    return proposing, voting


def _steps(
    model: Engine,
    recipe: Recipe,
    ours: Sequence[Judgment],
    theirs: Sequence[Judgment],
    templates: tuple[JudgeTemplate, JudgeTemplate],
    settings: DistillSettings,
) -> _Steps:
    with bar("propose", len(ours), "pairs") as advance:
        proposed = propose(model, ours, templates[0], settings, recipe.seed, advance)
    merged = merge(proposed.proposals)
    candidates = merged[: settings.candidates]
    if not candidates:
        return _Steps(proposed, merged, [], proposed.cost)
    with bar("vote", len(theirs), "pairs") as advance:
        votes = vote(model, candidates, theirs, templates[1], recipe.label, recipe.seed, advance)
    prompt_ids = [label.pair.prompt_id for label in theirs]
    tested = select(candidates, votes.p, prompt_ids, settings, Bootstrap.of(recipe.evaluate, recipe.seed))
    return _Steps(proposed, merged, tested, proposed.cost.plus(votes.cost))


# ------------------------------------------------------------------------------------------------- in words


def supported(tested: CandidateTest) -> str:
    """'82% (74 to 89%) of 61 decided pairs, proposed for 9'."""
    support = tested.support
    measured = f"{with_interval(support)} of {support.n} decided pairs" if support else "no support measured"
    return f"{measured}, proposed for {len(tested.candidate.supporters)}"


def _sentence(steps: _Steps, kept: Sequence[CandidateTest]) -> str:
    proposals, faults = steps.proposed.proposals, steps.proposed.faults
    made = f"{len(proposals)} proposals ({len(proposals) - faults.total()} usable, {len(steps.merged)} different)"
    if kept:
        return f"{len(kept)} of {len(steps.tested)} candidates survive the vote on held-out pairs, from {made}."
    if not steps.tested:
        worst = ", ".join(f"{fault}: {count}" for fault, count in faults.most_common(3))
        return (
            f"No principle survives: none of the {made} can be tested ({worst}); take a judge that follows the format."
        )
    best = steps.tested[0]
    return (
        f"No principle survives: none of {len(steps.tested)} candidates predicts held-out labels better than chance, "
        f"from {made}; the best, {best.candidate.text!r}, {best.rejected}: {supported(best)}. Give more labels or "
        "a better judge."
    )


def _measured(kept: Sequence[CandidateTest], pairs: int, confidence: float, alpha: float) -> list[str]:
    """The support of the principles, for the top of the file."""
    return [
        f"Support: on how many of the decided among {pairs} held-out pairs the principle alone prefers what people",
        f"preferred, with its {percent(confidence)} interval resampled by prompt. Each beats a coin at the level of "
        f"{alpha:g} after",
        "Holm's correction for all candidates tested. Other principles may explain the labels as well.",
        *(f"  {tested.candidate.id}: {supported(tested)}" for tested in kept),
        "For more modes than compare, add critique, revise, question, desired and contrast.",
    ]


def _figures(steps: _Steps, settings: DistillSettings) -> dict[str, Any]:
    why = f"not tested: {settings.candidates} others were proposed for as many pairs or more"
    untested = [CandidateTest(candidate, why) for candidate in steps.merged[settings.candidates :]]
    proposals, faults = steps.proposed.proposals, steps.proposed.faults
    return {
        "proposals": {
            "made": len(proposals),
            "usable": len(proposals) - faults.total(),
            "faults": dict(sorted(faults.items())),
            "unusable": [p._asdict() for p in proposals if p.fault],
        },
        "candidates": [
            {
                "id": tested.candidate.id,
                "text": tested.candidate.text,
                "kept": tested.rejected is None,
                "rejected": tested.rejected,
                "support": tested.support and tested.support.model_dump(),
                "p_value": tested.p_value,
                "judged_pairs": tested.asked,
                "supporters": list(tested.candidate.supporters),
                "wordings": list(tested.candidate.wordings),
            }
            for tested in [*steps.tested, *untested]
        ],
        "cost": steps.cost._asdict(),
    }


def _id(stem: str) -> str:
    """The file's name as the name of a constitution."""
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "distilled"
