"""Commands about files: check, schema, the store of replies, and the installed version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlaif import __version__
from rlaif.cli.options import out_option, say_all
from rlaif.errors import ConfigError, RlaifError

cache_app = typer.Typer(help="The store of judge replies that all runs share.", invoke_without_command=True)


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Constitutions, recipes, templates.")] = None,
    list_checks: Annotated[bool, typer.Option("--list-checks", help="List the checks a principle may use.")] = False,
) -> None:
    """Validate files: errors end with exit code 2, warnings do not."""
    from rlaif.checkup import check_file, check_table

    if list_checks:
        say_all([check_table()])
    elif not files:
        raise ConfigError("check: name at least one file, or give --list-checks")
    problems = []
    for file in files or []:
        try:
            say_all([check_file(file)])
        except RlaifError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def schema(
    kind: Annotated[str, typer.Argument(metavar="constitution|recipe")],
    out: Annotated[Path | None, out_option("Write it here and print the line that VS Code wants.")] = None,
) -> None:
    """JSON Schema, for editors."""
    from rlaif.checkup import json_schema, write_schema

    typer.echo(write_schema(kind, out) if out else json.dumps(json_schema(kind), indent=2))


def version() -> None:
    """The installed version."""
    typer.echo(__version__)


@cache_app.callback()
def cache(context: typer.Context) -> None:
    """What the reply cache holds, by model."""
    if context.invoked_subcommand is not None:
        return
    from rlaif.console import aligned
    from rlaif.models.cache import cache_path, cache_summary

    rows: list[tuple[str, ...]] = [("model", "revision", "replies", "MB", "oldest", "newest")]
    rows += [row.cells() for row in cache_summary(cache_path())]
    say_all([str(cache_path()), *(aligned(rows, words=2) if len(rows) > 1 else ["no replies yet"])])


@cache_app.command()
def prune(
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Only replies stored before so many days.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only replies of this model; see rlaif cache.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every reply.")] = False,
) -> None:
    """Delete replies; what is asked again is judged again."""
    from rlaif.models.cache import cache_path
    from rlaif.models.cache import prune as remove

    if older_than_days is None and model is None and not everything:
        raise ConfigError("cache prune: say which: --older-than-days, --model or --all")
    if everything and not (older_than_days is None and model is None):
        raise ConfigError("cache prune: --all is every reply; leave it out, or the other options")
    seconds = None if older_than_days is None else older_than_days * 86400
    rows, size = remove(cache_path(), older_than_s=seconds, model=model, everything=everything)
    say_all([f"{rows} replies removed, {size / 1e6:.1f} MB freed"])
