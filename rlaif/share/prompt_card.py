"""A data card for a prompt set, as it would train: what is in it, where it comes from, and what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.config import load_recipe
from rlaif.config.feedback import PromptsSection
from rlaif.config.filters import PERSONAL, Duplicates
from rlaif.digest import hash_path
from rlaif.errors import ConfigError
from rlaif.feedback.failures import causes
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.screening.coverage import clusters_of
from rlaif.feedback.screening.duplicates import near_duplicates
from rlaif.feedback.screening.personal import masked
from rlaif.feedback.screening.rules import asked
from rlaif.jsonl import write_atomic, write_json
from rlaif.records import Messages, grouped
from rlaif.resources import available, resolve
from rlaif.share.contents import without_places
from rlaif.share.dataset_card import SIZES
from rlaif.share.markdown import escaped, table, written
from rlaif.signals.language import likeliest
from rlaif.signals.tally import words

QUANTILES = {"shortest": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "longest": 1.0}
EXAMPLES, SHOWN = 5, 100
"""Dropped rows that are named for each cause, and letters of a cluster's example."""


def section_of(name: str, overrides: Sequence[str]) -> PromptsSection:
    """The prompts of a recipe, or of a set that no run has split yet."""
    if name in available("recipes") or Path(name).suffix in (".yaml", ".yml"):
        return load_recipe(name, overrides).prompts
    if overrides:
        raise ConfigError(f"prompts card {name}: values replace a recipe's, and this is none (got {overrides[0]!r})")
    return PromptsSection.unsplit(name)


def prompt_card(section: PromptsSection, licence: str, clusters: int) -> dict[str, Any]:
    """What the card says, ready for JSON. ConfigError where a library of the extra `signals` is missing.

    sources                                  {source, licence, digest} of each
    train, heldout, repeats                  counts of prompts, and of rows that say an earlier one again
    failures, dropped, masked                counts by cause
    dropped_rows                             the places of the first ones, by cause
    tags, turns, languages                   counts of prompts, the most frequent first
    words                                    quantiles, of all turns of a prompt
    near_duplicates, personal                left in the set, at the threshold of its filter or 0.8; by kind
    clusters                                 size and one prompt of each, personal data masked; none unless asked for
    """
    split = read_prompts(section)
    prompts = [*split.train, *split.heldout]
    conversations = [prompt.messages for prompt in prompts]
    filtered = section.filters.duplicates if section.filters else None
    lengths = [sum(len(words(turn.content)) for turn in messages) for messages in conversations]
    personal = sum((masked(messages, PERSONAL)[1] for messages in conversations), Counter[str]())
    languages = (likeliest(asked(messages)) for messages in conversations)
    rows = grouped([*split.failures, *split.dropped], lambda failure: failure.reason)
    return {
        "sources": [_source(source, licence) for source in section.sources],
        "train": len(split.train),
        "heldout": len(split.heldout),
        "repeats": split.repeats,
        "failures": causes(split.failures),
        "dropped": causes(split.dropped),
        "dropped_rows": {why: [_place(one.id) for one in found[:EXAMPLES]] for why, found in rows.items()},
        "tags": _counted(tag for prompt in prompts for tag in prompt.tags),
        "turns": _counted(str(len(messages)) for messages in conversations),
        "words": {name: float(np.quantile(lengths, at, method="nearest")) for name, at in QUANTILES.items()},
        "languages": _counted(found[0] if found and found[1] >= 0.5 else "unsure" for found in languages),
        "near_duplicates": sum(1 for _ in near_duplicates(conversations, (filtered or Duplicates()).threshold)),
        "personal": dict(sorted(personal.items())),
        "masked": dict(split.masked),
        "clusters": _clusters(conversations, clusters) if clusters else [],
    }


def _source(source: Any, licence: str) -> dict[str, str]:
    if source.kind == "hub":
        name = "/".join(filter(None, (source.dataset, source.data_dir, source.split)))
        return {"source": name, "licence": licence, "digest": source.revision or "newest"}
    shipped = source.path in available("prompts/sets")
    digest = hash_path(resolve("prompts/sets", source.path))
    return {"source": _place(source.path), "licence": "apache-2.0" if shipped else licence, "digest": digest}


def _place(place: str) -> str:
    return Path(place).name if Path(place).is_absolute() else str(without_places(place))


def _counted(values: Any) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _clusters(conversations: Sequence[Messages], clusters: int) -> list[tuple[int, str]]:
    found = grouped(zip(clusters_of(conversations, clusters), conversations, strict=True), lambda pair: pair[0])
    shown = {label: masked(pairs[0][1], PERSONAL)[0][-1].content[:SHOWN] for label, pairs in found.items()}
    return [(len(found[label]), shown[label]) for label in sorted(found)]


def write_card(card: Mapping[str, Any], out: Path) -> list[str]:
    """Both files, and where they are."""
    if out.suffix != ".md":  # a JSON file of that name comes beside it, and a prompt set is easily named by mistake
        raise ConfigError(f"--out {out}: a card is Markdown; name it as {out.with_suffix('.md')}")
    beside = out.with_suffix(".json")
    write_atomic(out, _markdown(card).encode())
    write_json(beside, card)
    return [f"card: {out}", f"figures: {beside}"]


def _markdown(card: Mapping[str, Any]) -> str:
    from huggingface_hub import DatasetCardData  # noqa: PLC0415 (slow)

    total = card["train"] + card["heldout"]
    licences = {source["licence"] for source in card["sources"]}
    data = DatasetCardData(
        license=licences.pop() if len(licences) == 1 else "other",
        language=[code for code in card["languages"] if code != "unsure"],
        size_categories=[next((name for name, most in SIZES if total < most), "n>10M")],
        tags=["rlaif", "prompts"],
    )
    lost = {"the same as an earlier row": card["repeats"], **card["failures"], **card["dropped"]}
    rows = [(why, f"{n:,}", ", ".join(card["dropped_rows"].get(why, ()))) for why, n in lost.items() if n]
    counts = {name.capitalize(): card[name] for name in ("words", "turns", "languages", "tags")}
    counts |= {"Personal data left": card["personal"], "Personal data masked": card["masked"]}
    sections = {
        "": [
            f"{total:,} prompts: {card['train']:,} to train on, {card['heldout']:,} held out. "
            f"{card['near_duplicates']:,} are near-duplicates of others. Names and street addresses were not looked "
            "for; a language is unsure where lingua gives it less than 0.5; licences are as their owners say."
        ],
        "Sources": [table(("Source", "Licence", "Digest"), [tuple(source.values()) for source in card["sources"]])],
        "Left out": [table(("Cause", "Rows", "The first"), rows) or "Nothing."],
        **{
            title: [table(("", "Number"), [(name, f"{n:,.0f}") for name, n in found.items()]) or "None."]
            for title, found in counts.items()
        },
        "Clusters": [table(("Prompts", "One of them"), [(f"{n:,}", text) for n, text in card["clusters"]])],
    }
    return written(data, f"Prompts: {escaped(', '.join(source['source'] for source in card['sources']))}", sections)
