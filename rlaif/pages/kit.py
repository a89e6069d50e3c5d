"""The parts of a page, each as HTML: verdict, tiles, table, pictures, sentences. `write_page` joins them.

A part that has nothing to show is None or empty, and the page leaves it out. Every text is escaped; words between
backticks are set as code.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlaif.jsonl import write_atomic
from rlaif.pages.plots import AxisScale, Line, Mark, forest
from rlaif.stats import Estimate
from rlaif.words import NONE, Unit, figure, span, tone

Part = Markup | None
Parts = list[Part | list[Part]]


class Cell(NamedTuple):
    """One cell of a table: `small` stands under the text, `tone` is 'up', 'down' or ''."""

    text: str
    small: str = ""
    tone: str = ""
    code: bool = False


Row = Sequence[str | Cell]


class Tile(NamedTuple):
    """One of the few figures that a reader wants first."""

    name: str
    value: str
    detail: str = ""
    tone: str = ""
    before: str = ""


class Side(NamedTuple):
    """One of two texts side by side; `look` is 'before' or 'after', chips are (text, tone)."""

    look: str
    name: str
    text: str
    facts: Sequence[str] = ()
    chips: Sequence[tuple[str, str]] = ()
    cut: bool = False
    pieces: Sequence[tuple[str, float | None]] = ()
    """The text in parts, each coloured by how far, from -1 to 1, it moved a value; empty: one text, as it is."""


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _macro(name: str, *given: Any) -> Markup:
    return Markup(getattr(_templates().get_template("kit.html.jinja").module, name)(*given))


def write_page(path: Path, title: str, facts: Mapping[str, str | None], parts: Parts, footer: str) -> Path:
    """Write the page and return its path. `facts` stand under the title, those without a value left out."""
    flat = [one for part in parts for one in (part if isinstance(part, list) else [part]) if one]
    shown = {name: _coded(value) for name, value in facts.items() if value}
    footer = f"{footer} Nothing on this page loads from elsewhere."
    page = _templates().get_template("page.html.jinja")
    html = page.render(title=title, facts=shown, parts=flat, footer=_coded(footer))
    # A lone surrogate, which JSON can hold, has no UTF-8 form.
    write_atomic(path, html.encode("utf-8", "replace"))
    return path


def _coded(text: str) -> Markup:
    pieces = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


# ------------------------------------------------------------------------------------------------ sentences


def heading(text: str, level: int = 2) -> Markup:
    """A heading of a section, or of a part of one."""
    return Markup(f"<h{level}>{{}}</h{level}>").format(text)


def section(title: str, reading: str, *parts: Part) -> list[Part]:
    """A heading, how to read what follows, and the parts; nothing where there is nothing to show."""
    return [heading(title), note(reading) if reading else None, *parts] if any(parts) else []


def note(text: str) -> Markup:
    """How to read what follows, or stands above."""
    return Markup('<p class="note">{}</p>').format(_coded(text))


def paragraph(*sentences: str) -> Part:
    """What the figures say."""
    return Markup("<p>{}</p>").format(" ".join(sentences)) if any(sentences) else None


def verdict(heading: str, paragraphs: Sequence[str], cautions: Sequence[str] = (), outcome: str = "") -> Markup:
    """The box at the top; `outcome` ('better', 'worse' or another) colours it."""
    return _macro("verdict", outcome, heading, [p for p in paragraphs if p], cautions)


# ------------------------------------------------------------------------------------------------ figures


def tile(name: str, estimate: Estimate | None, unit: Unit, zero: float | None = None, detail: str = "") -> list[Tile]:
    """A figure with its interval, coloured by its side of `zero`; nothing where it was not measured."""
    if estimate is None:
        return []
    shown = cell(estimate, unit, zero, detail, bare=True)
    return [Tile(name, shown.text, shown.small or f"no interval{detail}", shown.tone)]


def cell(
    estimate: Estimate | None, unit: Unit = "share", zero: float | None = None, more: str = "", bare: bool = False
) -> Cell:
    """A figure, its interval under it; `bare` of points whose column names the unit."""
    if estimate is None:
        return Cell(NONE)
    interval = span(estimate, unit)
    small = "" if interval == NONE else interval + more
    value = figure(estimate.value, unit)
    return Cell(value.removesuffix(" points") if bare else value, small, "" if zero is None else tone(estimate, zero))


def tiles(found: Sequence[Tile], reading: str) -> list[Part]:
    """The tiles and how to read them."""
    return [_macro("tiles", found), note(reading)] if found else []


def table(
    head: Sequence[str], rows: Sequence[Row], left: Collection[int] = (), totals: int = 0, kind: str = ""
) -> Part:
    """Rows under a head; None without rows.

    The first column and those of `left` are text, the others numbers; the last `totals` rows are set off. `kind` is
    'wide' for a table as wide as the text, 'dense' for many columns.
    """
    return _macro("table", head, rows, {0, *left}, totals, kind) if rows else None


def picture(svg: str, alt: str, kind: str = "") -> Markup:
    """An SVG as an image: unlike one written into the page it can run nothing, and its ids stay its own."""
    data = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return Markup('<figure class="plot {}"><img src="{}" alt="{}"></figure>').format(kind, data, alt)


def dots(
    title: str, alt: str, rows: Mapping[str, Estimate | None], scale: AxisScale | None = None, narrow: bool = False
) -> Part:
    """A dot with its interval per row; rows that were not measured are left out, and None of none."""
    measured = {name: Line([Mark(estimate)]) for name, estimate in rows.items() if estimate is not None}
    return picture(forest(title, measured, scale, narrow=narrow), alt) if measured else None


def grid(*parts: Part) -> Part:
    """Parts beside each other, as many as fit; None of none."""
    shown = [part for part in parts if part]
    return Markup('<div class="plots">{}</div>').format(Markup("").join(shown)) if shown else None


def stack(*parts: Part) -> Markup:
    """Parts below each other, as one cell of a grid."""
    return Markup("<div>{}</div>").format(Markup("").join(part for part in parts if part))


def details(summary: str, *parts: Part) -> Part:
    """Parts behind a line to click; None of none."""
    body = Markup("").join(part for part in parts if part)
    return _macro("details", summary, body) if body else None


def pre(text: str) -> Markup:
    """Text as it is."""
    return Markup("<pre>{}</pre>").format(text)


def example(prompt: Sequence[Mapping[str, str]], *sides: Side) -> Markup:
    """A conversation and two texts side by side."""
    return _macro("example", prompt, sides)


def talk(turns: Sequence[Side]) -> Markup:
    """A conversation, a turn below the other."""
    return _macro("talk", turns)


def failures(rows: Sequence[tuple[str, int, str]]) -> list[Part]:
    """The pairs that could not be judged: each reason, how often, and its first example."""
    shown = table(
        ("Reason", "Times", "First example"),
        [(reason, f"{count:,}", Cell("", example)) for reason, count, example in rows],
        left=(2,),
        kind="wide",
    )
    return [heading("Pairs that could not be judged", 3), shown] if shown else []


def provenance(parts: Mapping[str, Any], missing: str = "") -> list[Part]:
    """Texts, or values as JSON, behind their names: where the figures come from."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        for name, value in parts.items()
        if value
    }
    shown = [details(name, pre(text)) for name, text in texts.items()]
    return [heading("Provenance"), *(shown or [note(missing)])]


def settings(names: Sequence[str], values: Mapping[str, Sequence[str]]) -> Part:
    """What differs between recipes: a column per recipe, a row per key."""
    rows = [[Cell(text, code=True) for text in (key, *found)] for key, found in values.items()]
    return table(("Key", *names), rows, left=range(1, len(names) + 1))
