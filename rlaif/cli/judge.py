"""Commands about the judge: audit, explain, redteam, judge train and judge dialogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlaif.audits import MEASURES, PROBE_PAIRS
from rlaif.cli.options import NOTHING_CAME, Overrides, RecipeName, out_option, say_all

Gold = Annotated[list[Path], typer.Option(help="Human labels: a file, or a source as in a recipe; may be repeated.")]
GATE_HELP = (
    "Least values, as accuracy.low=0.6; exit code 1 where one is not reached. Measures: "
    f"{', '.join(MEASURES)}; with .low the lower end of the interval."
)
MODES_HELP = (
    "Ways of judging to choose one from, on half of the prompts; the audit is of that one, on the others. Names "
    "(compare,checklist,contrast) or a section ('{kind: contrast, length: mean}'); may be given several times. A "
    "proposal is no gate: the exit code is as without it."
)

judge_app = typer.Typer(no_args_is_help=True, help="Make a better judge.")


def audit(  # noqa: PLR0913 (each is a word of the command line)
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Gold,
    gate: Annotated[str | None, typer.Option(help=GATE_HELP)] = None,
    out: Annotated[Path | None, out_option("Folder or file. Default: runs/audit-<recipe>.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many labelled pairs.")] = None,
    probe_pairs: Annotated[
        int, typer.Option(min=0, help="Pairs that each probe judges once more; 0: no probes.")
    ] = PROBE_PAIRS,
    modes: Annotated[list[str] | None, typer.Option(metavar="KIND,KIND,...", help=MODES_HELP)] = None,
) -> None:
    """The judge against human labels: may it be used for this constitution, and in which mode?"""
    from rlaif.api import runs
    from rlaif.audits import choice

    audited = runs.audit(
        recipe, gold, overrides or [], out, gate=gate, limit=limit, probe_pairs=probe_pairs, modes=modes or ()
    )
    if "modes" in audited.audit:
        say_all(choice.lines(audited.audit["modes"]))
    opinion = audited.audit["opinion"]
    say_all([opinion["sentence"], *([" ".join(opinion["reasons"])] if opinion["reasons"] else [])])
    say_all(f"  - {caution}" for caution in opinion["cautions"])
    if audited.audit["gate"]:
        say_all(f"gate: {short}" for short in audited.shortfalls or ("passed",))
    say_all([f"audit: {audited.file}", f"page: {audited.page}"])
    if audited.shortfalls:
        raise typer.Exit(NOTHING_CAME)


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that is evaluated.")],
    *,
    of: Annotated[Literal["reward_model", "judge"], typer.Option(help="Whose number.")] = "reward_model",
    principle: Annotated[
        str | None, typer.Option(help="Its head of the reward model; what the judge is asked about.")
    ] = None,
    method: Annotated[
        Literal["tokens", "sentences"] | None,
        typer.Option(help="tokens: integrated gradients, of models in this process; sentences: of any."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts. Default: those of the report.")] = None,
) -> None:
    """What in the responses moved the reward model, a principle's head or the judge: explain.jsonl and the report."""
    from rlaif.audits.explain import explain_run
    from rlaif.pipeline import run_recipe
    from rlaif.run_folder import Run, recipe_of

    folder = Run(run)
    recipe = recipe_of(folder)
    count, problems = explain_run(recipe, folder, of, principle, method, limit)
    say_all([f"explained: {count} responses, {folder.explained}"])
    say_all(f"  not explained: {problems.count(one)} ({one})" for one in dict.fromkeys(problems))
    run_recipe(recipe, run, ["report"])
    say_all([f"report: {folder.report}"])


def redteam(  # noqa: PLR0913 (each is a word of the command line)
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; its policy is the target.")],
    *,
    principle: Annotated[str, typer.Option(help="What the prompts are to break.")],
    out: Annotated[Path, out_option("The prompt file to write.")],
    writer: Annotated[Literal["policy", "judge"], typer.Option(help="Who writes them.")] = "policy",
    seeds: Annotated[Path | None, typer.Option(help="Prompts to start from. Default: the run's.")] = None,
    licence: Annotated[str, typer.Option(help="Of the seeds; stands in each row.")] = "not stated",
    tries: Annotated[int, typer.Option(min=1, help="Prompts that are written.")] = 64,
    keep: Annotated[int, typer.Option(min=1, help="At most so many are kept.")] = 32,
    least: Annotated[float, typer.Option(min=0, max=1, help="Least share of answers that break it.")] = 0.5,
) -> None:
    """Prompts on which the policy breaks a principle, kept by what it answered; exit code 1 where there are none."""
    from rlaif.audits.redteam import RedteamSettings
    from rlaif.audits.redteam import redteam as attack
    from rlaif.run_folder import Run, recipe_of

    settings = RedteamSettings(writer, seeds, licence, tries, keep, least)
    kept, refused, undecided = attack(recipe_of(Run(run)), Run(run), principle, out, settings)
    say_all([f"kept: {kept} of {tries} prompts, {out}"])
    say_all(f"  refused: {count} ({why})" for why, count in refused.most_common())
    say_all([f"  undecided: {undecided} answers"] if undecided else [])
    if not kept:
        raise typer.Exit(NOTHING_CAME)


@judge_app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    gold: Annotated[
        list[Path], typer.Option(help="Labels of people, or judgments of another judge (JSONL); may be given often.")
    ],
    audit: Annotated[
        list[Path] | None,
        typer.Option(help="Labels to audit by, on other prompts. Default: of a share of the gold's prompts."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder. Default: runs/judge-<recipe>.")] = None,
) -> None:
    """Fit the recipe's judge to labelled pairs: exit code 1 where no epoch was better than none."""
    from rlaif.audits.judge_training.command import train_command
    from rlaif.config import load_recipe

    trained = train_command(load_recipe(recipe, overrides or []), gold, audit, out)
    say_all(trained.lines)
    if trained.folder is None:
        raise typer.Exit(NOTHING_CAME)


@judge_app.command()
def dialogue(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    conversations: Annotated[Path, typer.Option(help="JSONL: rows of `messages`.")],
    out: Annotated[Path, out_option("The folder to write.")],
) -> None:
    """Whole conversations turn by turn: which turn broke which principle, what was claimed, contradicted, corrected."""
    from rlaif.audits.dialogue import in_words, judge_dialogues
    from rlaif.config import load_recipe

    found = judge_dialogues(load_recipe(recipe, overrides or []), conversations, out)
    say_all([*in_words(found), f"dialogue: {out / 'dialogue.json'}", f"page: {out / 'dialogue.html'}"])
