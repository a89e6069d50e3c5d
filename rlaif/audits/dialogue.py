"""Whole conversations, judged turn by turn: which turn broke which principle, whether persona and topic last, and the
ledger of what was claimed. One row per conversation and one summary."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from rlaif.audits.dialogue_page import write_dialogue_page
from rlaif.audits.judges import open_judges
from rlaif.audits.metrics import dumped
from rlaif.config import Recipe
from rlaif.config.judging import RateMode, ReferenceMode, TurnsMode
from rlaif.config.models import engine_of
from rlaif.config.sources import FileSource
from rlaif.console import bar
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.evaluation.truth import calibrated
from rlaif.feedback.claims import sentences
from rlaif.feedback.failures import check_share
from rlaif.feedback.judge.asking import NoVerdict, check_texts
from rlaif.feedback.judge.drive import drive
from rlaif.feedback.judge.reference import Entry, ledger
from rlaif.feedback.judge.score import WAYS, ScoreOutcome, score
from rlaif.formats.given import prompt_from
from rlaif.formats.rows import SourceRow, Unusable, message_list
from rlaif.formats.turns import as_text, bare
from rlaif.jsonl import read_items, write_json, write_jsonl
from rlaif.records import Failure, Messages, Prompt, Score
from rlaif.resources import resolve
from rlaif.stats import Bootstrap, Bounds, at, estimate_at, mean_of
from rlaif.words import counted, number, percent, with_interval

_WORD = re.compile(r"[^\W\d_][\w'-]+")
BROKEN = 0.5
"""A turn whose probability to follow a principle is below this breaks it."""


class Talk(NamedTuple):
    """A conversation: the prompt, and the turns from the first of the assistant's on."""

    place: str
    prompt: Prompt
    later: Messages


def read_talks(path: Path) -> tuple[list[Talk], list[Failure]]:
    """The conversations of a JSONL file, rows of `messages` that end with the assistant's turn, perhaps `tags` and
    `given`. DataError, naming file and line, for a row of another shape, and for no rows; what holds no text alone, or
    a turn that would not stand in a transcript as one, is a failure."""
    talks, failures, source = [], [], FileSource(path=str(path))
    for place, value in read_items(resolve("prompts/sets", str(path))):
        row = SourceRow(place, value)
        row.require("messages")
        try:
            messages = message_list(value["messages"], place, "messages")
            begins = next((i for i, turn in enumerate(messages) if turn.role == "assistant"), 0)
            if not begins or messages[-1].role != "assistant" or messages[begins - 1].role != "user":
                raise DataError(f"{place}: messages: must begin with a user's turn and end with the assistant's")
            for number, turn in enumerate(messages[begins:], begins):
                if turn.role == "system" or bare(turn.content) != turn.content.strip():
                    raise Unusable("a turn that a transcript cannot hold", f"messages.{number} = {turn.content!r}")
        except Unusable as unusable:
            failures.append(Failure(stage="dialogue", id=place, reason=str(unusable), detail=unusable.detail))
            continue
        talks.append(Talk(place, prompt_from(row, messages[:begins], source), messages[begins:]))
    if not talks and not failures:
        raise DataError(f"{path}: no conversations")
    return talks, failures


def likeness() -> Callable[[str, str], float] | None:
    """How near two texts are in meaning, by the extra `signals`; None where that is not installed."""
    from rlaif.signals.embedding import embed  # noqa: PLC0415 (an extra, and slow)

    try:
        embed(["ready"])
    except ConfigError:
        return None
    return lambda one, other: float(np.dot(*embed([one, other])))


def continuity(whole: Messages, near: Callable[[str, str], float] | None) -> dict[str, float | None]:
    """`topic`: mean likeness of an assistant's turn and its turn before. `entities`: the mean share of a turn's names
    (capitalised words that begin no sentence) that anybody named before, over the turns that have any."""
    own = [turn.content for turn in whole if turn.role == "assistant"]
    topic = [near(one, other) for one, other in pairwise(own)] if near else []
    shares, known = [], set[str]()
    for turn in whole:
        names = _names(turn.content)
        if turn.role == "assistant" and names and known:
            shares.append(len(names & known) / len(names))
        known |= names
    return {"topic": fmean(topic) if topic else None, "entities": fmean(shares) if shares else None}


def _names(text: str) -> set[str]:
    parts = [part for piece in sentences(text.replace("\u2019", "'")) for part in piece.split(": ")]
    later = [word for part in parts for word in _WORD.findall(part)[1:]]
    return {word.removesuffix("'s") for word in later if word[0].isupper() and not word.startswith("I'")}


def consistency(values: Sequence[float]) -> float | None:
    """1 less the mean difference of two turns; None of one turn."""
    gaps = [abs(one - other) for one, other in combinations(values, 2)]
    return 1 - fmean(gaps) if gaps else None


def judge_dialogues(recipe: Recipe, path: Path, out: Path) -> dict[str, Any]:
    """Write OUT/dialogue.jsonl, OUT/dialogue.json and a page of both, and return the second."""
    constitution, section, seed = load_constitution(recipe.constitution), recipe.label, recipe.seed
    talks, failures = read_talks(path)
    unread = len(failures)
    mode: RateMode = section.mode if isinstance(section.mode, TurnsMode) else TurnsMode()
    check_texts(constitution, mode.kind)
    with open_judges(recipe.judge, str(out.resolve())) as judges, judges.cached(None) as model:
        bench = WAYS["turns"].bench(model, mode, constitution, section, seed)
        books = WAYS["reference"].bench(model, ReferenceMode(), constitution, section, seed)
        with bar("dialogue", 2 * len(talks), "readings") as advance:
            works = (score(bench, talk.prompt, as_text(talk.later)) for talk in talks)
            scored, _ = drive(model, works, lambda _: advance(1))
            ledgers, _ = drive(model, (ledger(books, t.prompt, t.later) for t in talks), lambda _: advance(1))
    near, rows = likeness(), []
    for talk, one, entries in zip(talks, scored, ledgers, strict=True):
        found = [] if isinstance(one, Score) else one
        if isinstance(entries, NoVerdict):
            found = [*found, Failure(stage="dialogue", id="", reason=entries.reason, detail=entries.detail)]
        failures += [failure.model_copy(update={"stage": "dialogue", "id": talk.place}) for failure in found]
        rows.append(_row(talk, one, [] if isinstance(entries, NoVerdict) else entries, near))
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "dialogue.jsonl", rows)
    write_jsonl(out / "failures.jsonl", failures)
    failed, every = len({failure.id for failure in failures}), unread + len(talks)
    check_share("dialogue", failed, every, failures, "label.max_failures", section.max_failures)
    summary = {"conversations": every, "failed": failed} | _summary(rows, Bootstrap.of(recipe.evaluate, seed))
    write_json(out / "dialogue.json", summary)
    judged = [((*talk.prompt.messages, *talk.later), row) for talk, row in zip(talks, rows, strict=True)]
    facts = {"Constitution": f"{constitution.id} {constitution.version}", "Judge": engine_of(recipe.judge).model}
    write_dialogue_page(summary, judged, facts | {"Conversations": path.name}, out / "dialogue.html")
    return summary


def _row(talk: Talk, one: ScoreOutcome, entries: Sequence[Entry], near: Any) -> dict[str, Any]:
    known = one if isinstance(one, Score) else None
    by = {
        p.principle: {
            "value": p.value,
            "turns": [turn.model_dump() for turn in p.turns],
            "broken": [turn.turn for turn in p.turns if turn.value < BROKEN],
            "consistency": consistency([turn.value for turn in p.turns]),
        }
        for p in (known.principles if known else ())
    }
    return {
        "place": talk.place,
        "prompt_id": talk.prompt.id,
        "value": known.value if known else None,
        "principles": by,
        "ledger": [entry.model_dump(mode="json") for entry in entries],
        "continuity": continuity((*talk.prompt.messages, *talk.later), near),
    }


def _summary(rows: Sequence[dict[str, Any]], bootstrap: Bootstrap) -> dict[str, Any]:
    def mean(place: str, bounds: Bounds = (0.0, 1.0)) -> dict[str, Any] | None:
        known = ((at(row, place), row["place"]) for row in rows if at(row, place) is not None)
        return dumped(mean_of(known, bootstrap, bounds))

    names = dict.fromkeys(name for row in rows for name in row["principles"])
    entries = [entry for row in rows for entry in row["ledger"]]
    said = [(e["confidence"], float(e["checked"]["verdict"] == "supported")) for e in entries if e["checked"]]
    return {
        "value": mean("value"),
        "principles": {
            name: {
                "value": mean(f"principles.{name}.value"),
                "broken": sum(len(at(row, f"principles.{name}.broken") or ()) for row in rows),
                "consistency": mean(f"principles.{name}.consistency"),
            }
            for name in names
        },
        "continuity": {"topic": mean("continuity.topic", (-1.0, 1.0)), "entities": mean("continuity.entities")},
        "claims": {
            "all": len(entries),
            "contradictions": sum(bool(entry["contradicts"]) and not entry["corrects"] for entry in entries),
            "corrections": sum(entry["corrects"] for entry in entries),
            "calibration": calibrated([(p, right) for p, right in said if p is not None]),
        },
    }


def in_words(found: dict[str, Any]) -> list[str]:
    """What the command says of a summary."""

    def share(place: str) -> str:
        return with_interval(estimate_at(found, place))

    lines = [f"{counted(found['conversations'], 'conversation')}, {found['failed']} failed"]
    for name, entry in found["principles"].items():
        value, lasts = (share(f"principles.{name}.{key}") for key in ("value", "consistency"))
        lines.append(f"  {name}: {value}; broken in {counted(entry['broken'], 'turn')}; consistent {lasts}")
    claims, lasts = found["claims"], found["continuity"]
    lines.append(f"continuity: topic {share('continuity.topic')}, entities {share('continuity.entities')}")
    named = (counted(claims[key], key[:-1]) for key in ("contradictions", "corrections"))
    lines.append(f"{counted(claims['all'], 'claim')}, {', '.join(named)}")
    sure = claims["calibration"]
    said = f"{percent(sure['confidence'])} sure, {percent(sure['right'])} supported, error {number(sure['ece'])}"
    what = f"calibration: {counted(sure['n'], 'claim')} with stated confidence and documents"
    return [*lines, f"{what}: {said}" if sure["n"] else what]
