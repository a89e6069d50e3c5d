"""What every card has: what the rows are, who judged, the recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlaif.evaluation.report import KINDS
from rlaif.evaluation.verdict import judge_sentences
from rlaif.share.facts import About
from rlaif.share.markdown import code, escaped, table
from rlaif.stats import at
from rlaif.words import SOURCES

LISTED = 12
"""Overrides that a card lists."""
FEEDBACK = {"ai": "AI feedback", "human": "human feedback", "mix": "human and AI feedback"}


def title(about: About, what: str) -> str:
    """The first heading."""
    return f"{escaped(about.recipe.title or about.recipe.name)}: {what}"


def judged_by(about: About) -> str:
    """By which constitution; empty where no judge labelled."""
    constitution = about.constitution
    judged = about.judge is not None and constitution
    return f" by the constitution {constitution['id']} {constitution['version']}" if judged else ""


def versions(about: About) -> Mapping[str, Any]:
    """Of rlaif and of what it rests on, by name."""
    return at(about.run.manifest, "versions") or {}


def maker(about: About) -> str:
    """rlaif, with the version that the run was made with."""
    return f"rlaif {versions(about).get('rlaif', '')}".rstrip()


def tags(about: About) -> list[str]:
    """Who gave the labels, as a hub's tags."""
    kind = about.recipe.preferences.labels.kind
    return {"ai": ["ai-feedback"], "human": ["human-feedback", "rlhf"]}.get(kind, ["ai-feedback", "human-feedback"])


def data_section(about: About, rows: Counter[tuple[str, str]]) -> list[str]:
    """Where the rows come from, how many there are by source and split, and what failed."""
    if not rows:
        return ["This run has no preferences; the recipe says what it learnt from."]
    kind = KINDS[about.recipe.preferences.labels.kind]
    sources = about.sources()
    system = " A system prompt stands before each." if about.recipe.prompts.system else ""
    contrast = (
        " Responses were written in pairs under two opposed instructions." if about.recipe.sample.contrast else ""
    )
    said = [f"Labels: {kind}. Prompts: {escaped(sources['prompts'])}.{system}{contrast}"]
    said += [f"People's labels: {escaped(sources['labels'])}."] if sources["labels"] else []
    said += [made_up] if (made_up := about.made_up()) else []
    labelled = [
        (SOURCES.get(source, source), *(f"{rows[source, split]:,}" for split in ("train", "heldout")))
        for source in sorted({source for source, _ in rows})
    ]
    counts = about.counts()
    return [" ".join(said), table(("Labels", "Train", "Held out"), labelled), f"{'; '.join(counts)}." if counts else ""]


def judge_section(about: About) -> list[str]:
    """The judge, what an audit says of it, and how far it agrees with itself."""
    if about.judge is None:
        return ["No AI judge labelled these preferences."]
    audit = about.audit()
    unknown = "No audit of this judge lies beside the run: how often it agrees with people is unknown."
    said = f"An audit against human labels says: {escaped(audit)}" if audit else unknown
    evaluation = about.run.evaluation
    return [
        f"{escaped(about.judge)}. {said}",
        *([escaped(" ".join(judge_sentences(evaluation)))] if evaluation else []),
    ]


def recipe_section(about: About) -> list[str]:
    """What it takes to do the same again."""
    constitution, overrides = about.constitution, about.overrides()
    made_with = ", ".join(f"{name} {version}" for name, version in versions(about).items())
    facts = [
        f"Recipe {escaped(about.recipe.name)}, seed {about.recipe.seed}, digest of recipe.yaml `{about.digest}`.",
        f"Constitution {constitution['id']} {constitution['version']}, hash `{constitution['hash']}`."
        if constitution
        else "The constitution's file is gone.",
        f"Made with {made_with}." if made_with else "",
    ]
    more = f" and {len(overrides) - LISTED:,} more, which are below" if len(overrides) > LISTED else ""
    listed = "; ".join(f"`{line}`" for line in overrides[:LISTED])
    changed = f"Other than in the shipped recipe of that name: {listed}{more}."
    knobs = (
        f"Every value that is not rlaif's default (paths are cut to their last part):\n\n{code(about.knobs(), 'yaml')}"
    )
    return [" ".join(filter(None, facts)), *([changed] if overrides else []), knobs]
