"""Recipes: the sections (every knob) and how a YAML file plus overrides becomes one frozen `Recipe`.

What is named here is imported when it is asked for: the modules of `rlaif/formats/` are made of sections, and a recipe
is made of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.config.base import Section
    from rlaif.config.load import changed_keys, dump_recipe, load_recipe
    from rlaif.config.recipe import Recipe

__all__ = ["Recipe", "Section", "changed_keys", "dump_recipe", "load_recipe"]
PLACES = {"Recipe": "recipe", "Section": "base"}
"""Modules of names; the others are in `load.py`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES.get(name, 'load')}"), name)
