"""What one must hold in mind, counted: `python -m tests.counts`."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

import typer
from typer.core import TyperGroup

from rlaif.cli import app
from rlaif.config.base import Section, kinds_in
from rlaif.config.recipe import Recipe
from tests.test_architecture import LAYERS, MODULES

TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def sections(root: type[Section], found: set[type[Section]]) -> set[type[Section]]:
    """Every section that a recipe can have."""
    if root not in found:
        found.add(root)
        for field in root.model_fields.values():
            for kind in kinds_in(field.annotation):
                if isinstance(kind, type) and issubclass(kind, Section):
                    sections(kind, found)
    return found


def commands(group: object) -> int:
    """Of the command line, those of groups included."""
    return sum(commands(each) for each in group.commands.values()) if isinstance(group, TyperGroup) else 1


def main() -> None:
    """One line for each count."""
    lines = [len(path.read_text().splitlines()) for path in MODULES]
    knobs = sections(Recipe, set())
    names = Counter(
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    tests = [len(path.read_text().splitlines()) for path in Path(__file__).parent.glob("*.py")]
    found = {
        "modules": len(lines),
        "lines": sum(lines),
        "median lines of a module": round(median(lines)),
        "modules under 40 lines": sum(count < 40 for count in lines),
        "layers": len(LAYERS),
        "sections of a recipe": len(knobs),
        "knobs": sum(len(section.model_fields.keys() - {"kind", "backend"}) for section in knobs),
        "commands": commands(typer.main.get_command(app)),
        "class names that stand for two things": sum(count > 1 for count in names.values()),
        "lines of tests": sum(tests),
    }
    for name, count in found.items():
        print(f"{name:<40}{count:>8,}")


if __name__ == "__main__":
    main()
