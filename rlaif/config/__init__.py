"""Recipes: the sections (every knob) and how a YAML file plus overrides becomes one frozen `Recipe`."""

from rlaif.config.base import Section
from rlaif.config.load import changed_keys, dump_recipe, load_recipe, recipe_schema
from rlaif.config.recipe import Recipe

__all__ = ["Recipe", "Section", "changed_keys", "dump_recipe", "load_recipe", "recipe_schema"]
