"""Commands about data: a prompt set's card, and how much data a wished figure takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import Overrides, print_table, say_all
from rlaif.errors import ConfigError

prompts_app = typer.Typer(no_args_is_help=True, help="What is in a prompt set.")
plan_app = typer.Typer(no_args_is_help=True, help="How many prompts, samples and labels a wished figure takes.")
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999)]


@prompts_app.command()
def card(
    prompts: Annotated[str, typer.Argument(metavar="SET", help="A prompt set (everyday), a file of one, or a recipe.")],
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="The card, as Markdown; beside it JSON.")] = None,
    licence: Annotated[str, typer.Option(help="Of the sources, as an SPDX name.")] = "unknown",
    clusters: Annotated[int, typer.Option(min=0, help="Clusters of embeddings; 0: none.")] = 0,
) -> None:
    """Counts, sources, languages, lengths, duplicates, personal data, clusters, and what was dropped and why."""
    from rlaif.share.prompt_card import prompt_card, section_of, write_card

    found = prompt_card(section_of(prompts, overrides or []), licence, clusters)
    say_all(write_card(found, out or Path(f"{Path(prompts).stem}-card.md")))


@plan_app.command("win-rate")
def win_rate(
    width: Annotated[float | None, typer.Option(min=1e-4, max=1, help="Of the interval: 0.1.")] = None,
    effect: Annotated[
        float | None, typer.Option(min=1e-4, max=0.5, help="Least difference from 0.5 to be found.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Whose evaluation says how wins spread.")] = None,
    correlation: Annotated[
        float, typer.Option(min=0, max=1, help="Assumed, of a prompt's samples; not with --run.")
    ] = 0.3,
    confidence: Confidence = 0.95,
) -> None:
    """Prompts, samples and judged pairs for an interval's width, a smallest effect (power 80 %), or both."""
    from rlaif.evaluation.planning import Spread, prompts_needed, wins_of
    from rlaif.run_folder import Run

    if width is None and effect is None:
        raise ConfigError("plan win-rate: say --width, --effect, or both")
    measured = None if run is None else wins_of(Run(run))
    spread = measured or Spread.assumed(correlation)
    rows = [["responses per prompt", "prompts", "samples", "judged pairs"]]
    for samples in (1, 2, 4, 8) if spread.within else (1,):  # of one response per prompt nobody knows what more do
        prompts = prompts_needed(spread, samples, confidence, width, effect)
        rows.append([f"{number:,}" for number in (samples, prompts, 2 * prompts * samples, prompts * samples)])
    print_table(rows)
    why = "measure it with --run" if run is None else f"all wins of {run} are alike, which tells nothing of it"
    source = f"of {run}" if measured else f"assumed (correlation {correlation:g}); {why}"
    say_all([f"variance between prompts {spread.between:.3f}, within {spread.within:.3f}: {source}"])


@plan_app.command()
def labels(
    accuracy: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Wished, on held-out pairs.")],
    points: Annotated[
        str | None, typer.Option(help="LABELS:ACCURACY,... as 100:0.61,200:0.66,400:0.7,800:0.72")
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Held-out pairs that measured each point.")] = None,
    run: Annotated[Path | None, typer.Option(help="Train on parts of this run's preferences instead.")] = None,
    sizes: Annotated[int, typer.Option(min=3, max=8, help="How many parts, each twice the last.")] = 4,
    confidence: Confidence = 0.95,
) -> None:
    """Labels that a reward model's accuracy takes, by its learning curve; or that the points cannot say."""
    from rlaif.api.curve import measured_curve
    from rlaif.evaluation.planning import labels_needed, parsed, sentence

    if (points is None) == (run is None):
        raise ConfigError("plan labels: give the curve with --points, or measure it with --run")
    found = measured_curve(run, sizes) if run else parsed(points or "", pairs)
    say_all([sentence(labels_needed(found, accuracy, confidence), accuracy, confidence)])
