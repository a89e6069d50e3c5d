"""Every command that README and docs print is one that the command line takes, with a recipe that loads.

Nothing is run here but the words: options and arguments are parsed by the real command line, and where a command
names a shipped recipe, the recipe is loaded with the command's overrides.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.core import TyperGroup

from rlaif.cli import app
from rlaif.config import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if page.name != "strong-judge.md"  # its commands are run, at small size, by test_strong_road.py
]
STARTS = re.compile(r"^    (?:accelerate launch .* -m )?(rlaif .*)$")
ASSIGNS = re.compile(r"^    ([A-Z]+)=('.*'|\S+)$")


class Command(NamedTuple):
    """As a page prints it."""

    place: str
    words: list[str]


def commands(page: Path) -> Iterator[Command]:
    lines = page.read_text().splitlines()
    variables: dict[str, str] = {}
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while text.endswith("\\") or (text.startswith("    rlaif ") and text.count("'") % 2):
            number += 1
            text = text.removesuffix("\\") + lines[number]
        number += 1
        if assigned := ASSIGNS.match(text):
            variables[assigned[1]] = shlex.split(assigned[2])[0]
        elif found := STARTS.match(text):
            words = shlex.split(found[1], comments=True)
            yield Command(
                f"{page.name}:{first + 1}",
                [re.sub(r"^\$([A-Z]+)$", lambda name: variables[name[1]], word) for word in words],
            )


ALL = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", ALL, ids=[f"{c.place} {c.words[1]}" for c in ALL])
def test_a_printed_command_is_one(command: Command) -> None:
    command_or_group = typer.main.get_command(app)
    context = command_or_group.make_context("rlaif", list(command.words[1:]))
    while isinstance(command_or_group, TyperGroup) and (rest := [*context._protected_args, *context.args]):
        name, found, rest = command_or_group.resolve_command(context, rest)
        assert found is not None
        command_or_group, context = found, found.make_context(name, rest, parent=context)
    recipe = context.params.get("recipe")
    if recipe and recipe != "RECIPE" and not Path(recipe).suffix:
        load_recipe(recipe, context.params.get("overrides") or [])
