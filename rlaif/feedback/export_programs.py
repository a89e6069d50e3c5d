"""Preferences as records of annotation programs, with the settings that their servers need beside them.

Read in Argilla 2.8.0 (its SDK and its server) and the Label Studio SDK 2.1.2. Which response stands first is decided by
hash: annotators see no pattern. `formats/argilla.py` and `label_studio.py` read what people answer. Next: `export.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.feedback.export_trainers import one_text, split_system
from rlaif.formats.argilla import AGENT, PEOPLE_AGENT
from rlaif.jsonl import write_atomic, write_json
from rlaif.records import Preference, Prompt, oriented

FIELDS = ("instruction", "response1", "response2")
LABEL_STUDIO = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="pw" toName="text1,text2"/>
  <Text name="text1" value="$text1"/>
  <Text name="text2" value="$text2"/>
</View>
"""


def _shown(row: Preference) -> tuple[str, str, bool]:
    """Both responses in the order in which they are shown, and whether the chosen one is first."""
    chosen, rejected = row.chosen[-1].content, row.rejected[-1].content
    pair = oriented(Prompt(id=row.prompt_id, messages=row.prompt, tags=row.tags), chosen, rejected)
    return pair.a, pair.b, pair.a == chosen


def argilla_row(row: Preference) -> dict[str, Any]:
    """A record for the settings beside it, which are `rg.Settings.for_ranking()` and the metadata.

    Every label is a suggestion, with p for each side as its score and who gave it as its agent: a response needs a user
    whom the server knows. A conversation of several turns is a Human/Assistant transcript; its system turn is metadata.
    """
    one, other, first = _shown(row)
    system, turns = split_system(row.prompt)
    best = FIELDS[1:] if first else FIELDS[:0:-1]
    agent = AGENT if row.source == "ai" else PEOPLE_AGENT
    metadata = {"source": row.source, "split": row.split, "p_chosen": row.p_chosen}
    return {
        "id": f"{row.pair_id}-{row.source}",
        "fields": dict(zip(FIELDS, (one_text(turns), one, other), strict=True)),
        "metadata": metadata | ({"system": system} if system else {}),
        "suggestions": {"ranking": {"value": list(best), "score": [row.p_chosen, 1 - row.p_chosen], "agent": agent}},
        "responses": {},
    }


def write_settings(out: Path, file: Path) -> None:
    """What `rg.Settings.from_json` reads: fields, the question, and the metadata, which a server refuses undeclared."""

    def named(name: str, **settings: Any) -> dict[str, Any]:
        return {"name": name, "title": name, "settings": settings}

    texts = [named(name, type="text", use_markdown=False) | {"required": True} for name in FIELDS]
    options = [{"value": name, "text": name, "description": None} for name in FIELDS[1:]]
    terms = [named(name, type="terms", values=None) for name in ("source", "split", "system")]
    settings = {
        "guidelines": "Rank the responses.",
        "fields": texts,
        "questions": [named("ranking", type="ranking", options=options) | {"required": True}],
        "vectors": [],
        "metadata": [*terms, named("p_chosen", type="float", min=0.5, max=1.0)],
        "allow_extra_metadata": False,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }
    write_json(file, settings)


def label_studio_row(row: Preference) -> dict[str, Any]:
    """A task for the labelling configuration beside it. The judge's label is a prediction, a person's an annotation,
    which Label Studio gives to the user who imports it."""
    one, other, first = _shown(row)
    system, turns = split_system(row.prompt)
    result = {"from_name": "pw", "to_name": "text1,text2", "type": "pairwise"}
    results = [result | {"value": {"selected": "left" if first else "right"}}]
    about = {"source": row.source, "split": row.split, "p_chosen": row.p_chosen}
    judge = {"model_version": AGENT, "score": row.p_chosen, "result": results}
    return {
        "data": {"prompt": one_text(turns), "text1": one, "text2": other, "system": system, **about},
        "predictions": [judge] if row.source == "ai" else [],
        "annotations": [{"result": results}] if row.source == "human" else [],
    }


def write_config(out: Path, file: Path) -> None:
    """The labelling configuration that the tasks go with."""
    write_atomic(file, LABEL_STUDIO.encode())
