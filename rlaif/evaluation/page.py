"""HTML pages that stand alone: templates from pages/, everything escaped, pictures inside the file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlaif.jsonl import write_atomic


class Picture(NamedTuple):
    """An image as a data address, with the words for those who do not see it."""

    data: str
    alt: str


def picture(svg: str, alt: str) -> Picture:
    """An SVG as an image: unlike one written into the page it can run nothing, and its ids stay its own."""
    return Picture(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", alt)


def write_page(path: Path, template: str, context: dict[str, Any]) -> None:
    """Render a template of pages/ to the file. Text of models and users shows as it is and never runs."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render(context)
    # A lone surrogate, which JSON can hold, has no UTF-8 form.
    write_atomic(path, html.encode("utf-8", "replace"))
