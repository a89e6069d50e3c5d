"""Markdown with a card's front matter: texts of the user's stand in it as they are, whatever signs they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlaif.pages.kit import Cell


def written(data: Any, title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """A whole card: `data` before it, then each section's paragraphs under its heading; an empty one is left out."""
    from huggingface_hub import RepoCard  # noqa: PLC0415

    told = [f"# {title}"]
    for heading, paragraphs in sections.items():
        shown = [one.strip() for one in paragraphs if one.strip()]
        told += [*([f"## {heading}"] if heading and shown else []), *shown]
    body = "\n\n".join(told)
    card = RepoCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    return str(card)


def escaped(text: str) -> str:
    """A text of the user's as one line in which Markdown and HTML find nothing of theirs."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def code(text: str, language: str = "python") -> str:
    """A block of code, whatever backticks are in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> str:
    """A Markdown table; nothing without rows."""
    body = [[escaped(cell.text if isinstance(cell, Cell) else cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body] if body else []
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
