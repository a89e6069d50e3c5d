"""Commands about a constitution: diff, ablate, distill, fit, measure and calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlaif.cli.judge import Gold
from rlaif.cli.options import NOTHING_CAME, Overrides, RecipeName, out_option, say_all
from rlaif.errors import ConfigError

if TYPE_CHECKING:
    from rlaif.stats import Estimate

constitution_app = typer.Typer(no_args_is_help=True, help="Compare, test, fit and find constitutions.")


@constitution_app.command()
def diff(old: str, new: str) -> None:
    """What changed between two constitutions, in words, and which version number the changes call for."""
    from rlaif.constitution import load_constitution
    from rlaif.constitution.diff import diff as compare

    say_all([compare(load_constitution(old), load_constitution(new)).text()])


@constitution_app.command()
def ablate(recipe: RecipeName, overrides: Overrides = None, *, gold: Gold) -> None:
    """The judge's agreement with human labels with each principle left out."""
    from rlaif.audits.principles import judge_and_ablate
    from rlaif.config import load_recipe
    from rlaif.console import aligned
    from rlaif.words import with_interval

    resolved = load_recipe(recipe, overrides or [])
    found = judge_and_ablate(resolved, gold)
    brackets = f"in brackets {resolved.evaluate.confidence:.0%} intervals, by prompt"
    say_all([f"Agreement with human labels: {with_interval(found.whole)}; {brackets}"])
    table: list[tuple[str, ...]] = [("principle", "without it", "change, points", "alone")]
    for without, alone in zip(found.rows[::2], found.rows[1::2], strict=True):
        shares = [with_interval(row.accuracy) if row.accuracy else "no pairs" for row in (without, alone)]
        table.append((without.principle, shares[0], _points(without.difference), shares[1]))
    say_all(aligned(table))


def _points(estimate: Estimate | None) -> str:
    """Differences between versions of a constitution are small, so with one decimal."""
    from rlaif.words import with_interval

    return with_interval(estimate, "fine points").replace(" points", "") if estimate else ""


@constitution_app.command()
def distill(  # noqa: PLR0913 (each is a word of the command line)
    preferences: Annotated[
        Path, typer.Argument(help="Labelled pairs, as for audit; or, with --samples, demonstrations.")
    ],
    overrides: Overrides = None,
    *,
    recipe: Annotated[str, typer.Option(help="Whose judge proposes and votes.")] = "quickstart",
    out: Annotated[Path, out_option("The constitution to write.")],
    proposals: Annotated[int, typer.Option(min=1, help="Pairs that principles are proposed for.")] = 100,
    candidates: Annotated[int, typer.Option(min=1, help="Proposed principles put to the vote.")] = 24,
    votes: Annotated[int, typer.Option(min=1, help="Pairs that each is put to the vote on.")] = 100,
    samples: Annotated[
        Path | None, typer.Option(help="A run's responses.jsonl: the file holds demonstrations, preferred to these.")
    ] = None,
) -> None:
    """Inverse constitutional AI: principles proposed from labelled pairs, kept when they predict held-out ones."""
    from rlaif.audits.distill import distill as distilled
    from rlaif.audits.distill import supported
    from rlaif.audits.proposals import DistillSettings
    from rlaif.config import load_recipe

    settings = DistillSettings(proposals=proposals, candidates=candidates, votes=votes)
    found = distilled(load_recipe(recipe, overrides or []), [preferences], out, settings, samples)
    kept = [f"  {t.candidate.id}: {supported(t)}: {t.candidate.text}" for t in found.kept]
    written = [f"constitution: {found.path}"] if found.path else []
    say_all([found.document["sentence"], *kept, *written, f"report: {found.report}"])
    if not found.kept:
        raise typer.Exit(NOTHING_CAME)


@constitution_app.command()
def fit(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Gold,
    out: Annotated[Path, out_option("The new version of the constitution.")],
    loss: Annotated[Literal["logistic", "hinge"], typer.Option()] = "logistic",
) -> None:
    """Weights of the principles fitted on human labels, written as a new version."""
    from rlaif.audits.principles import fit_constitution
    from rlaif.config import load_recipe
    from rlaif.words import direction, with_interval

    found = fit_constitution(load_recipe(recipe, overrides or []), gold, out, loss)
    held = f"{len(found.fit.hits)} pairs of {len(set(found.fit.prompt_ids))} prompts"
    doubt = ": not to be told from none on so few pairs" if direction(found.gain) == "unclear" else ""
    say_all(
        [
            f"{loss} fit on {found.fit.trained} pairs; held out: {held}",
            f"held-out accuracy with the weights as they were {with_interval(found.before)}, fitted "
            f"{with_interval(found.after)}, difference {_points(found.gain)} points{doubt}",
            *(f"  {p.id}: {p.weight:.3g}" for p in found.constitution.principles),
            *([f"  dropped: {', '.join(found.fit.dropped)}"] if found.fit.dropped else []),
            f"constitution {found.constitution.id} {found.constitution.version}: {out}",
        ]
    )


@constitution_app.command()
def measure(
    constitution: Annotated[str, typer.Argument(help="A shipped constitution or a YAML file.")],
    rows: Annotated[Path, typer.Argument(help="JSONL of responses, with what they answer under `prompt`.")],
    out: Annotated[Path | None, out_option("Write the rows that pass all of it.")] = None,
) -> None:
    """What the checks and classifiers say of the responses in a file; --out keeps those that pass."""
    from rlaif.audits import signals
    from rlaif.console import aligned
    from rlaif.constitution import load_constitution
    from rlaif.jsonl import write_jsonl

    if out and out.resolve() == rows.resolve():
        raise ConfigError(f"--out {out}: is the file that is read; name another")
    answers = signals.read_answers(rows)
    found = signals.measure(load_constitution(constitution), answers)
    say_all(aligned([signals.HEAD, *map(signals.cells, found)]))
    if out:
        rows_kept, failed, undecided = signals.kept(answers, found)
        write_jsonl(out, rows_kept)
        say_all([f"{out}: {len(rows_kept):,} of {len(answers):,} rows; {failed:,} fail, {undecided:,} not decided"])


@constitution_app.command()
def calibrate(
    constitution: Annotated[str, typer.Argument(help="A shipped constitution or a YAML file.")],
    principle: Annotated[str, typer.Argument(help="One with a classifier.")],
    rows: Annotated[Path, typer.Argument(help="JSONL as for measure, each with passes: true or false.")],
) -> None:
    """The limit (and temperature) of a classifier fitted on labelled responses: a line to put into the constitution."""
    import math

    import yaml

    from rlaif.audits import signals
    from rlaif.constitution import load_constitution
    from rlaif.words import with_interval

    found = signals.calibrate(load_constitution(constitution), principle, signals.read_answers(rows))
    section = {"kind": found.signal.kind} | found.signal.model_dump(mode="json", exclude_defaults=True)
    written = yaml.safe_dump(section, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    say_all(
        [
            f"classifier: {written.strip()}",
            f"fitted on {found.fitted_on} rows; on {found.after.n} rows of other prompts, accuracy over both kinds "
            f"alike {with_interval(found.before)} before, {with_interval(found.after)} with it",
            *([f"{found.undecided} rows without a number left out"] if found.undecided else []),
        ]
    )
