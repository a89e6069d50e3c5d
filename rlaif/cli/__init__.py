"""The command line: thin. Every command parses its words, calls one function and prints what came back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlaif import __version__
from rlaif.cli import people, tools
from rlaif.cli.outputs import not_a_run_file
from rlaif.cli.tools import Overrides, RecipeName
from rlaif.errors import ConfigError, RlaifError
from rlaif.processes import leads, several

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning from AI feedback: from a written constitution to a trained policy.",
    epilog="Any command takes --traceback, which shows where in the code an error arose.",
)

Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<recipe name>.")]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Do finished stages again where the recipe changed. Without it that is refused."),
]


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="The last stage to run.")] = None,
    since: Annotated[
        list[Path] | None,
        typer.Option("--since", metavar="RUN", help="Take over what this run made of the very same inputs."),
    ] = None,
    redo: Redo = False,
) -> None:
    """Every stage of a recipe; finished stages are skipped, a killed one goes on.

    A stage is done again when a file or a knob that it reads has changed: a knob only with --redo.
    """
    _run(recipe, overrides, out, None, until, since or [], redo)


def _stage_command(stage: str, help_text: str, name: str | None = None) -> None:
    def command(recipe: RecipeName, overrides: Overrides = None, out: Out = None, redo: Redo = False) -> None:
        _run(recipe, overrides, out, [stage], redo=redo)

    app.command(name=name or stage, help=help_text, hidden=name is not None)(command)


for _name, _help in {
    "sample": "Only: the policy's responses to the prompts.",
    "label": "Only: the judge's verdicts on pairs of responses.",
    "pairs": "Only: judgments and human labels to preferences.",
    "reward": "Only: the reward model.",
    "optimise": "Only: the policy, by PPO or whatever `optimise.kind` says.",
    "evaluate": "Only: the policy against the reference on held-out prompts.",
    "report": "Only: the report page.",
}.items():
    _stage_command(_name, _help)
_stage_command("optimise", "The stage optimise, by the name of its usual method.", name="ppo")


def _run(
    name: str,
    overrides: list[str] | None,
    out: Path | None,
    only: list[str] | None,
    until: str | None = None,
    since: Sequence[Path] = (),
    redo: bool = False,
) -> None:
    from rlaif.config import load_recipe
    from rlaif.console import console
    from rlaif.pipeline import run_recipe, stages_until

    recipe = load_recipe(name, overrides or [])
    if until is not None:
        only = stages_until(recipe, until)
    done = run_recipe(recipe, out or Path("runs") / recipe.name, only, since=since, redo=redo)
    if only is None or "report" in only:
        if done.evaluation.exists():
            from rlaif.evaluation.artefacts import EVALUATION
            from rlaif.evaluation.tables import terminal
            from rlaif.jsonl import read_json

            console.print(terminal(read_json(done.evaluation, EVALUATION)))
        console.print(f"report: {done.report}", soft_wrap=True)


@app.command()
def iterate(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many, those done already included.")],
    out: Annotated[Path | None, typer.Option("--out", help="Holds round-1, ... Default: runs/<name>-rounds.")] = None,
    redo: Redo = False,
) -> None:
    """A recipe over and over: each round samples and labels anew, from the policy of the round before."""
    from rlaif import iterate as rounds_of
    from rlaif.config import load_recipe
    from rlaif.console import say

    resolved = load_recipe(recipe, overrides or [])
    _print_table(rounds_of.iterate(resolved, rounds, out or Path("runs") / f"{resolved.name}-rounds", redo))
    say(rounds_of.NOTES)


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Constitutions, recipes, templates.")] = None,
    list_checks: Annotated[bool, typer.Option("--list-checks", help="List the checks a principle may use.")] = False,
) -> None:
    """Validate files: errors end with exit code 2, warnings do not."""
    from rlaif.checkup import check_file, check_table

    if list_checks:
        typer.echo(check_table())
    elif not files:
        raise ConfigError("check: name at least one file, or give --list-checks")
    problems = []
    for file in files or []:
        try:
            typer.echo(check_file(file))
        except RlaifError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


app.command()(tools.audit)
for _command in (people.route, people.annotate, people.conflicts, people.export):
    app.command()(_command)
app.add_typer(people.annotators_app, name="annotators")
app.add_typer(tools.judge_app, name="judge")
app.add_typer(tools.constitution_app, name="constitution")
app.add_typer(tools.cache_app, name="cache")


@app.command()
def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="The study's folder. Default: studies/<name>.")] = None,
    redo: Redo = False,
) -> None:
    """Arms over seeds on one pipeline, judged against each other: AI feedback against human feedback."""
    from rlaif.study.config import load_study
    from rlaif.study.run import run_study

    found = load_study(study)
    for line in run_study(found, out or Path("studies") / found.name, redo):
        typer.echo(line)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; or the one folder of a study.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The page to write; the numbers go beside it as JSON. Not for a study.",
            callback=not_a_run_file,
        ),
    ] = None,
) -> None:
    """Several runs side by side, or a study's comparison, with intervals, as a table and a page."""
    from rlaif.console import console
    from rlaif.evaluation.compare import compare_runs

    if len(runs) == 1 and (runs[0] / "study.yaml").exists():
        from rlaif.study.page import write_comparison

        for line in write_comparison(runs[0]):
            typer.echo(line)
        return
    if out is None:
        raise ConfigError("compare: name the page to write with --out")
    _print_table(compare_runs(runs, out))
    console.print(f"page: {out}", soft_wrap=True)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """The header first."""
    from rich.table import Table

    from rlaif.console import console

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="constitution|recipe")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write it here and print the line that VS Code wants.", callback=not_a_run_file),
    ] = None,
) -> None:
    """JSON Schema, for editors."""
    from rlaif.checkup import json_schema, write_schema

    typer.echo(write_schema(kind, out) if out else json.dumps(json_schema(kind), indent=2))


@app.command()
def version() -> None:
    """The installed version."""
    typer.echo(__version__)


def _refusal(error: OSError) -> str:
    """What the operating system refused (a full disk, a folder that cannot be written), on one line."""
    return f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())


def _speaks() -> bool:
    """Whether this process says why it ends: of several that end together, one."""
    if not several():
        return True
    from rlaif.training import parallel

    return parallel.speaks_first() if parallel.size() > 1 else leads()


def _part() -> None:
    """Leave the other processes, all being at the end."""
    if several():
        from rlaif.training import parallel

        parallel.stop()


def main() -> None:
    """Entry point: an error that is the user's to mend is printed as it is, exit code 2, without a traceback."""
    # Before torch is loaded, which reads it once: threads that wait for each other soon sleep, and do not burn a core
    # that other work wants. In between (300 rounds, some microseconds) nothing is lost on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "300")
    # Taken wherever it stands: who adds it to a command that failed adds it at the end.
    words = [word for word in sys.argv[1:] if word != "--traceback"]
    try:
        app(words)
    except (RlaifError, OSError) as error:
        if len(words) < len(sys.argv) - 1:
            raise
        if _speaks():
            typer.echo(f"error: {_refusal(error) if isinstance(error, OSError) else error}", err=True)
        sys.exit(2)
    except Exception:
        if _speaks():
            raise
        sys.exit(1)
    except SystemExit as end:
        _part()
        if end.code == 130:  # what Ctrl-C becomes on its way through typer
            typer.echo("stopped; run the same command again to go on", err=True)
        raise


if __name__ == "__main__":
    main()
