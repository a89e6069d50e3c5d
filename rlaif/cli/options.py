"""What several commands share: arguments, where a command may write, and how it prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.errors import ConfigError

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (quickstart) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that replace the recipe's.")
]
NOTHING_CAME = 1
"""The exit code of a gate that was not passed, and of work that came to nothing; 2 is for mistakes."""


def say_all(lines: Iterable[str]) -> None:
    """Print the lines as they are: none is wrapped, nothing in them is markup."""
    from rlaif.console import say

    for line in lines:
        say(line)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """The header first."""
    from rich.table import Table

    from rlaif.console import console

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def out_option(help: str) -> Any:
    """The --out of a command that writes what no run has of its own."""
    return typer.Option(help=help, callback=_not_a_run_file)


def _not_a_run_file(out: Path | None) -> Path | None:
    """ConfigError for a name that a run folder has for a file of its own, whatever its suffix: some commands write a
    second file beside the first, with another."""
    for folder in out.resolve().parents if out else ():
        if (folder / "recipe.yaml").is_file() and (folder / "manifest.json").is_file():
            from rlaif.run_folder import Run

            assert out
            top = Path(out.resolve().relative_to(folder).parts[0])
            own = {path.stem for name, path in vars(Run(folder)).items() if name != "folder"}
            if top.stem in own:
                raise ConfigError(f"--out {out}: {top} is the run's own in {folder}; name another file")
    return out
