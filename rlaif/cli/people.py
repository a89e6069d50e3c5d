"""Commands about people's feedback: route, annotate, annotators, conflicts, export. Thin, as the whole command line."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif.cli.outputs import not_a_run_file

if TYPE_CHECKING:
    from rlaif.annotate.route import Conflict

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ROUTERS = "random, uncertainty, swap_gap, disagreement, margin (of the reward model) or predicted (errors of the judge)"

MOST_SHOWN = 400
"""Characters of a text that `conflicts` shows; the file has the rest."""

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
    from rlaif.annotate.route import route as choose
    from rlaif.console import say

    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {number:+.2f}" for name, number in value.items())
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    found = choose(run, budget, by, random_share, gold or [])
    of = f"{found.pairs} of {found.unlabelled} unlabelled pairs"
    say(f"{of}, {found.by_chance} of them by chance, the rest by {by}")
    for name, value in found.facts.items():
        say(f"  {name}: {told(value)}")
    say(f"next: rlaif annotate {run}")


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
    from rlaif.annotate.app import serve_page
    from rlaif.config import load_recipe
    from rlaif.console import say
    from rlaif.formats import Annotations
    from rlaif.run_folder import Run

    done = serve_page(run, port, pairs, per_pair, gold, principles)
    if not done.answers:
        say("no answers yet")
        return
    files = Run(run)
    people = "1 annotator" if done.annotators == 1 else f"{done.annotators} annotators"
    edits = f", {done.edits} with an edit" if done.edits else ""
    answers = "1 answer" if done.answers == 1 else f"{done.answers} answers"
    say(f"{answers} of {people}{edits} in {files.annotations}")
    here = shlex.quote(str(run))
    labels = load_recipe(str(files.recipe)).preferences.labels if files.recipe.exists() else None
    sources = labels.human_data if labels and labels.kind != "ai" else ()
    if any(isinstance(source, Annotations) and source.run is None for source in sources):
        say(f"next: rlaif run {shlex.quote(str(files.recipe))} --out {here}")
    else:
        say(f"next: rlaif run RECIPE preferences.labels.human_data='[{{kind: annotations, run: {here}}}]' --out FOLDER")


def conflicts(
    run: RunFolder, count: Annotated[int, typer.Option("--count", min=1, help="How many to show.")] = 5
) -> None:
    """Pairs on which people and the judge prefer different responses, the judge's surest first."""
    from rlaif.annotate.route import conflicts_of
    from rlaif.console import say
    from rlaif.run_folder import Run

    files = Run(run)
    found = conflicts_of(files)
    if not found:
        say("no conflicts: wherever people and the judge both preferred a response, it was the same")
        return
    for conflict in found[:count]:
        for line in (*_conflict_lines(conflict), ""):
            say(line)
    where = f": {files.conflicts}" if files.conflicts.exists() else ""
    say(f"{len(found)} conflicts, {min(count, len(found))} shown{where}")


def _conflict_lines(conflict: Conflict) -> list[str]:
    """The prompt, and who prefers which response."""
    from rlaif.feedback.pairs import choice

    def wrapped(text: str, indent: str = "    ") -> list[str]:
        cut = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN].rstrip() + " ..."
        return textwrap.wrap(" ".join(cut.split()), 100, initial_indent=indent, subsequent_indent=indent)

    judge = f"{max(conflict.p_judge, 1 - conflict.p_judge):.2f}, swap gap {conflict.swap_gap:.2f}"
    lines = [f"pair {conflict.pair.id}", *wrapped(conflict.pair.prompt[-1].content, "  > ")]
    for text, p_human, p_judge in (
        (conflict.pair.a, conflict.p_human, conflict.p_judge),
        (conflict.pair.b, 1 - conflict.p_human, 1 - conflict.p_judge),
    ):
        people = ", ".join(conflict.annotators)
        by = people if choice(p_human) == 1 else f"the judge ({judge})" if choice(p_judge) == 1 else "nobody"
        lines += [f"  preferred by {by}:", *wrapped(text)]
    return lines


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run folder or a preferences.jsonl.")],
    to: Annotated[str, typer.Option("--to", metavar="trl|trl-implicit|openrlhf|argilla")],
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write.", callback=not_a_run_file)],
) -> None:
    """Preferences in another tool's format."""
    from rlaif.console import say
    from rlaif.feedback.export import export_command

    for line in export_command(source, to, out):
        say(line)


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
    from rlaif.annotate.store import publish
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
