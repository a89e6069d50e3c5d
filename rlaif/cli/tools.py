"""Commands about the judge and its constitution: audit, judge train, constitution diff/ablate/distill/fit, cache. Thin,
as all of the command line: each parses its words, calls one function and prints what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlaif.audits import MEASURES, PROBE_PAIRS
from rlaif.cli.outputs import not_a_run_file
from rlaif.errors import ConfigError

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (quickstart) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that replace the recipe's.")
]
Gold = Annotated[
    list[Path], typer.Option("--gold", help="Human labels: a file, or a source as in a recipe; may be repeated.")
]
GATE_HELP = (
    "Least values, as accuracy.low=0.6; exit code 1 where one is not reached. Measures: "
    f"{', '.join(MEASURES)}; with .low the lower end of the interval."
)
MODES_HELP = (
    "Ways of judging to choose one from, on half of the prompts; the audit is of that one, on the others. Names "
    "(compare,checklist,contrast) or a section ('{kind: contrast, length: mean}'); may be given several times. A "
    "proposal is no gate: the exit code is as without it."
)
GATE_FAILED = 1
"""The exit code of a gate that was not passed, and of work that came to nothing; 2 is for mistakes."""

constitution_app = typer.Typer(no_args_is_help=True, help="Compare, test, fit and find constitutions.")
judge_app = typer.Typer(no_args_is_help=True, help="Make a better judge.")
cache_app = typer.Typer(help="The store of judge replies that all runs share.", invoke_without_command=True)


def audit(  # noqa: PLR0913 (each is a word of the command line)
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Gold,
    gate: Annotated[str | None, typer.Option("--gate", help=GATE_HELP)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder or file. Default: runs/audit-<recipe>.", callback=not_a_run_file),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many labelled pairs.")] = None,
    probe_pairs: Annotated[
        int, typer.Option("--probe-pairs", min=0, help="Pairs that each probe judges once more; 0: no probes.")
    ] = PROBE_PAIRS,
    modes: Annotated[list[str] | None, typer.Option("--modes", metavar="KIND,KIND,...", help=MODES_HELP)] = None,
) -> None:
    """The judge against human labels: may it be used for this constitution, and in which mode?"""
    from rlaif.audits.audit import audit_command
    from rlaif.audits.named_modes import parse_modes
    from rlaif.config import load_recipe
    from rlaif.config.judging import CompareMode
    from rlaif.console import say

    # Which mode `auto` is, this audit is to find out; should it propose none, it is about the default.
    found = load_recipe(recipe, overrides or [], auto=CompareMode() if modes else None)
    tried = parse_modes(modes, found.label.mode) if modes else ()
    audited = audit_command(found, gold, gate, out, limit=limit, probe_pairs=probe_pairs, modes=tried)
    for line in audited.lines:
        say(line)
    if audited.shortfalls:
        raise typer.Exit(GATE_FAILED)


@constitution_app.command()
def diff(old: str, new: str) -> None:
    """What changed between two constitutions, in words, and which version number the changes call for."""
    from rlaif.constitution import load_constitution
    from rlaif.constitution.diff import diff as compare

    typer.echo(compare(load_constitution(old), load_constitution(new)).text())


@constitution_app.command()
def ablate(recipe: RecipeName, overrides: Overrides = None, *, gold: Gold) -> None:
    """The judge's agreement with human labels with each principle left out."""
    from rlaif.audits.commands import ablate_command
    from rlaif.config import load_recipe

    for line in ablate_command(load_recipe(recipe, overrides or []), gold):
        typer.echo(line)


@constitution_app.command()
def distill(
    preferences: Annotated[Path, typer.Argument(help="Labelled pairs: JSONL as for audit.")],
    overrides: Overrides = None,
    *,
    recipe: Annotated[str, typer.Option("--recipe", help="Whose judge proposes and votes.")] = "quickstart",
    out: Annotated[Path, typer.Option("--out", help="The constitution to write.", callback=not_a_run_file)],
    proposals: Annotated[int, typer.Option("--proposals", min=1, help="Pairs that principles are proposed for.")] = 100,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Proposed principles put to the vote.")] = 24,
    votes: Annotated[int, typer.Option("--votes", min=1, help="Pairs that each is put to the vote on.")] = 100,
) -> None:
    """Inverse constitutional AI: principles proposed from labelled pairs, kept when they predict held-out ones."""
    from rlaif.audits.distill import DistillSettings, distill_command
    from rlaif.config import load_recipe
    from rlaif.console import say

    settings = DistillSettings(proposals=proposals, candidates=candidates, votes=votes)
    found = distill_command(load_recipe(recipe, overrides or []), [preferences], out, settings)
    for line in found.lines:
        say(line)
    if not found.kept:
        raise typer.Exit(GATE_FAILED)


@constitution_app.command()
def fit(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Gold,
    out: Annotated[Path, typer.Option("--out", help="The new version of the constitution.", callback=not_a_run_file)],
    loss: Annotated[Literal["logistic", "hinge"], typer.Option("--loss")] = "logistic",
) -> None:
    """Weights of the principles fitted on human labels, written as a new version."""
    from rlaif.audits.commands import fit_command
    from rlaif.config import load_recipe
    from rlaif.console import say

    for line in fit_command(load_recipe(recipe, overrides or []), gold, out, loss):
        say(line)


@judge_app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Annotated[
        list[Path],
        typer.Option("--gold", help="Labels of people, or judgments of another judge (JSONL); may be given often."),
    ],
    audit: Annotated[
        list[Path] | None,
        typer.Option(
            "--audit", help="Labels to audit by, on other prompts. Default: of a share of the gold's prompts."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The folder. Default: runs/judge-<recipe>.")] = None,
) -> None:
    """Fit the recipe's judge to labelled pairs: exit code 1 where no epoch was better than none."""
    from rlaif.audits.judge_training.command import train_command
    from rlaif.config import load_recipe
    from rlaif.console import say

    trained = train_command(load_recipe(recipe, overrides or []), gold, audit, out)
    for line in trained.lines:
        say(line)
    if trained.folder is None:
        raise typer.Exit(GATE_FAILED)


@cache_app.callback()
def cache(context: typer.Context) -> None:
    """What the reply cache holds, by model."""
    if context.invoked_subcommand is not None:
        return
    from rlaif.console import aligned
    from rlaif.models.cache import cache_path, cache_summary

    rows: list[tuple[str, ...]] = [("model", "revision", "replies", "MB", "oldest", "newest")]
    rows += [row.cells() for row in cache_summary(cache_path())]
    typer.echo(cache_path())
    if len(rows) == 1:
        typer.echo("no replies yet")
        return
    for line in aligned(rows, words=2):
        typer.echo(line)


@cache_app.command()
def prune(
    older_than_days: Annotated[
        float | None, typer.Option("--older-than-days", min=0, help="Only replies stored before so many days.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only replies of this model; see rlaif cache.")] = None,
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
    typer.echo(f"{rows} replies removed, {size / 1e6:.1f} MB freed")
