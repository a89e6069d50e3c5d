"""Commands about people's feedback: route, annotate, annotators, conflicts, export. Thin, as the whole command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import not_a_run_file, say_all

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ROUTERS = "random, uncertainty, swap_gap, disagreement, margin (of the reward model) or predicted (errors of the judge)"

annotators_app = typer.Typer(no_args_is_help=True, help="Who labelled, how far each is believed; simulated annotators.")


def route(
    run: RunFolder,
    budget: Annotated[int, typer.Option("--budget", min=1, help="How many pairs people can look at.")],
    by: Annotated[str, typer.Option("--by", metavar="ROUTER", help=ROUTERS)] = "uncertainty",
    random_share: Annotated[
        float,
        typer.Option("--random-share", min=0, max=1, help="Spent at random: only that says how good the judge is."),
    ] = 0.2,
    gold: Annotated[list[Path] | None, typer.Option("--gold", help="Human labels for --by predicted.")] = None,
) -> None:
    """Choose which judged pairs go to people under a budget; `rlaif annotate` then shows them."""
    from rlaif.annotate.route import route_command

    say_all(route_command(run, budget, by, random_share, gold or []))


def annotate(
    run: RunFolder,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default: 8765, or the next free.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", help="Pairs to show (JSONL) instead of the run's.")] = None,
    per_pair: Annotated[int, typer.Option("--per-pair", min=1, help="People who see each pair.")] = 1,
    gold: Annotated[Path | None, typer.Option("--gold", help="Labelled pairs to mix in, which test people.")] = None,
    principles: Annotated[bool, typer.Option(help="Let people choose by principle, too.")] = True,
) -> None:
    """Serve a page on this machine where people compare responses; answers become this run's annotations."""
    from rlaif.annotate.command import annotate_command

    annotate_command(run, port, pairs, per_pair, gold, principles)


def conflicts(
    run: RunFolder, count: Annotated[int, typer.Option("--count", min=1, help="How many to show.")] = 5
) -> None:
    """Pairs on which people and the judge prefer different responses, the judge's surest first."""
    from rlaif.annotate.conflicts import conflicts_command

    say_all(conflicts_command(run, count))


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run folder or a preferences.jsonl.")],
    to: Annotated[str, typer.Option("--to", metavar="trl|trl-implicit|openrlhf|argilla")],
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write.", callback=not_a_run_file)],
) -> None:
    """Preferences in another tool's format."""
    from rlaif.feedback.export import export_command

    say_all(export_command(source, to, out))


@annotators_app.command()
def report(
    sources: Annotated[list[Path], typer.Argument(metavar="RUN|FILE...", help="Run folders, or files of labels.")],
    gold: Annotated[list[Path] | None, typer.Option("--gold", help="Labels known to be right.")] = None,
    remove: Annotated[str, typer.Option("--remove", help="Rules, as min_gold_accuracy=0.6,min_seconds=2.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="The same figures as JSON.", callback=not_a_run_file)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the intervals.")] = 0,
) -> None:
    """Everyone who labelled: agreement, gold questions, Dawid-Skene, skill, speed, and Krippendorff's alpha."""
    from rlaif.annotate.publish import publish
    from rlaif.feedback.annotators.commands import annotators_command
    from rlaif.run_folder import Run

    for folder in (source for source in sources if source.is_dir()):
        publish(Run(folder))  # the answers of a page that is served right now are in its database
    for line in annotators_command(sources, gold or [], out, remove, seed):
        typer.echo(line)


@annotators_app.command()
def simulate(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="Labels that are taken for the truth.")],
    crew: Annotated[str, typer.Option("--crew", help="As careful:3,lazy:2,flipper:1.")],
    out: Annotated[Path, typer.Option("--out", help="The labels to write (JSONL).", callback=not_a_run_file)],
    per_pair: Annotated[int, typer.Option("--per-pair", min=1, help="How many of them see each pair.")] = 1,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Made-up labels of made-up annotators with known faults, marked as simulated wherever they appear."""
    from rlaif.console import say
    from rlaif.feedback.annotators.commands import simulate_command

    for line in simulate_command(source, crew, per_pair, seed, out):
        say(line)
