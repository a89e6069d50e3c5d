"""The day that chat templates print. Some print today's (Llama 3, gpt-oss, SmolLM3): tomorrow the same questions would
be others, a run that goes on would get other bytes, and what was learnt under one prompt would be read under another.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

DAY = datetime(2024, 7, 26)
"""The one that Llama 3's own template falls back to."""
DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"
Template = TypeVar("Template", str, dict[str, str])


def strftime_now(format: str) -> str:
    """In place of the function of this name that transformers gives to templates."""
    return DAY.strftime(format)


def on_that_day(template: Template) -> Template:
    """The template, or each of several by name, so that whoever renders it prints that day."""
    if isinstance(template, dict):
        return {name: on_that_day(text) for name, text in template.items()}
    return _macro() + template if "strftime_now" in template else template


def _macro() -> str:
    """`strftime_now` in Jinja, which hides the function of the same name."""
    forms = [f"%{flag}{letter}" for flag in ("-", "") for letter in DIRECTIVES]
    filled = "".join(f'|replace("{form}", "{strftime_now(form)}")' for form in forms if form not in ("%n", "%t"))
    return "{%- macro strftime_now(format) -%}{{ format" + filled + " }}{%- endmacro -%}"
