"""Commands about the judge and its constitution: audit, judge train, constitution diff, ablate, distill and fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlaif.audits import MEASURES, PROBE_PAIRS
from rlaif.cli.options import NOTHING_CAME, Overrides, RecipeName, not_a_run_file, say_all

if TYPE_CHECKING:
    from rlaif.stats import Estimate

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

constitution_app = typer.Typer(no_args_is_help=True, help="Compare, test, fit and find constitutions.")
judge_app = typer.Typer(no_args_is_help=True, help="Make a better judge.")


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
    from rlaif.audits import choice
    from rlaif.audits.audit import write_audit
    from rlaif.audits.modes import parse_modes
    from rlaif.config import load_recipe
    from rlaif.config.judging import CompareMode

    # Which mode `auto` is, this audit is to find out; should it propose none, it is about the default.
    found = load_recipe(recipe, overrides or [], auto=CompareMode() if modes else None)
    tried = parse_modes(modes, found.label.mode) if modes else ()
    audited = write_audit(found, gold, gate, out, limit=limit, probe_pairs=probe_pairs, modes=tried)
    if "modes" in audited.audit:
        say_all(choice.lines(audited.audit["modes"]))
    opinion = audited.audit["opinion"]
    say_all([opinion["sentence"], *_paragraph(opinion["reasons"])])
    say_all(f"  - {caution}" for caution in opinion["cautions"])
    if audited.audit["gate"]:
        say_all(f"gate: {short}" for short in audited.shortfalls or ("passed",))
    say_all([f"audit: {audited.file}", f"page: {audited.page}"])
    if audited.shortfalls:
        raise typer.Exit(NOTHING_CAME)


def _paragraph(sentences: list[str]) -> list[str]:
    return [" ".join(sentences)] if sentences else []


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
    confidence = f"{resolved.evaluate.confidence:.0%}"
    say_all(
        [f"Agreement with human labels: {with_interval(found.whole)}; in brackets {confidence} intervals, by prompt"]
    )
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
    from rlaif.audits.distill import distill as distilled
    from rlaif.audits.distill import supported
    from rlaif.audits.proposals import DistillSettings
    from rlaif.config import load_recipe

    settings = DistillSettings(proposals=proposals, candidates=candidates, votes=votes)
    found = distilled(load_recipe(recipe, overrides or []), [preferences], out, settings)
    say_all([found.document["sentence"]])
    say_all(f"  {t.candidate.id}: {supported(t)}: {t.candidate.text}" for t in found.kept)
    if found.path:
        say_all([f"constitution: {found.path}"])
    say_all([f"report: {found.report}"])
    if not found.kept:
        raise typer.Exit(NOTHING_CAME)


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

    trained = train_command(load_recipe(recipe, overrides or []), gold, audit, out)
    say_all(trained.lines)
    if trained.folder is None:
        raise typer.Exit(NOTHING_CAME)
