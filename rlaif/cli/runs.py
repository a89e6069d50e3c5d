"""Commands about runs: every stage, one stage, rounds, studies, and runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.options import NOTHING_CAME, Overrides, RecipeName, out_option, print_table, say_all
from rlaif.errors import ConfigError

if TYPE_CHECKING:
    from rlaif.run_folder import Run

STAGES = {
    "sample": "Only: the policy's responses to the prompts.",
    "label": "Only: the judge's verdicts on pairs of responses.",
    "pairs": "Only: judgments and human labels to preferences.",
    "reward": "Only: the reward model.",
    "optimise": "Only: the policy, by PPO or whatever `optimise.kind` says.",
    "evaluate": "Only: the policy against the reference on held-out prompts.",
    "report": "Only: the report page.",
}
Out = Annotated[Path | None, typer.Option(help="The run folder. Default: runs/<recipe name>.")]
Redo = Annotated[
    bool, typer.Option("--redo", help="Do finished stages again where the recipe changed. Without it that is refused.")
]


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run.")] = None,
    since: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Take over what this run made of the very same inputs.")
    ] = None,
    redo: Redo = False,
) -> None:
    """Every stage of a recipe; finished stages are skipped, a killed one goes on.

    A stage is done again when a file or a knob that it reads has changed: a knob only with --redo.
    """
    from rlaif.api import runs

    done = runs.run(recipe, overrides or [], out, until=until, since=since or [], redo=redo)
    _tell(done, until or "report")


def stage_command(stage: str) -> Callable[..., None]:
    """The command that runs this stage alone."""

    def command(recipe: RecipeName, overrides: Overrides = None, out: Out = None, redo: Redo = False) -> None:
        from rlaif.config import load_recipe
        from rlaif.pipeline import run_recipe

        found = load_recipe(recipe, overrides or [])
        _tell(run_recipe(found, out or Path("runs") / found.name, [stage], redo=redo), stage)

    return command


def _tell(done: Run, last: str) -> None:
    """What came of it, where the report is the last stage that ran."""
    from rlaif.console import console
    from rlaif.evaluation.artefacts import EVALUATION
    from rlaif.evaluation.tables import terminal
    from rlaif.jsonl import read_json

    if last == "report":
        if done.evaluation.exists():
            console.print(terminal(read_json(done.evaluation, EVALUATION)))
        say_all([f"report: {done.report}"])


def iterate(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many, those done already included.")] = None,
    from_feedback: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="One more, on what users said since the last: a service's folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Holds round-1, ... Default: runs/<name>-rounds.")] = None,
    redo: Redo = False,
) -> None:
    """A recipe over and over: each round samples and labels anew, from the policy of the round before."""
    from rlaif import iterate as rounds_of
    from rlaif.config import load_recipe

    if (rounds is None) == (from_feedback is None):
        raise ConfigError("iterate: say --rounds N, or --from-feedback FOLDER for one more round on what users said")
    resolved = load_recipe(recipe, overrides or [])
    folder = out or Path("runs") / f"{resolved.name}-rounds"
    if from_feedback is not None:
        from rlaif.live import iterate_from_feedback

        table = iterate_from_feedback(resolved, from_feedback, folder, redo)
    else:
        table = rounds_of.iterate(resolved, rounds or 1, folder, redo)
    if table is None:
        raise typer.Exit(NOTHING_CAME)
    print_table(table)
    say_all([rounds_of.NOTES])
    if resolved.iterate:
        say_all([f"history: {folder / 'rounds.html'}"])
        if refused := rounds_of.last_refused(folder, len(table) - 1):
            say_all([f"round {len(table) - 1} was refused: {refused}"])
            raise typer.Exit(NOTHING_CAME)


def mine(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with judgments.")],
    *,
    out: Annotated[Path, out_option("The prompt file to write.")],
    count: Annotated[int, typer.Option("--prompts", min=1, help="How many of the hardest.")] = 100,
    by: Annotated[str, typer.Option(help="Signs, separated by commas.")] = "tie,margin,members,people",
) -> None:
    """The prompts on which judge, reward model and people are least sure, as the next round's prompts."""
    from rlaif.annotate import mining
    from rlaif.errors import did_you_mean
    from rlaif.run_folder import Run, recipe_of

    named = [name.strip() for name in by.split(",")]
    if unknown := [name for name in named if name not in mining.SIGNS]:
        raise ConfigError(f"--by {unknown[0]}: no such sign{did_you_mean(unknown[0], mining.SIGNS)}")
    signs = [sign for sign in mining.SIGNS if sign in named]
    mined, prompts, looked_at = mining.mine(recipe_of(Run(run)), Run(run), out, count, signs)
    say_all(f"  {sign}: {pairs} pairs" for sign, pairs in looked_at.items())
    say_all([f"mined: {mined} of {prompts} prompts, {out}"])


def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    out: Annotated[Path | None, typer.Option(help="The study's folder. Default: studies/<name>.")] = None,
    redo: Redo = False,
) -> None:
    """Arms over seeds on one pipeline, judged against each other: AI feedback against human feedback."""
    from rlaif.study.config import load_study
    from rlaif.study.run import run_study

    found = load_study(study)
    say_all(run_study(found, out or Path("studies") / found.name, redo))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; or the one folder of a study.")],
    out: Annotated[
        Path | None, out_option("The page to write; the numbers go beside it as JSON. Not for a study.")
    ] = None,
) -> None:
    """Several runs side by side, or a study's comparison, with intervals, as a table and a page."""
    from rlaif.evaluation.compare import compare_runs

    if len(runs) == 1 and (runs[0] / "study.yaml").exists():
        from rlaif.study.page import write_comparison

        say_all(write_comparison(runs[0]))
        return
    if out is None:
        raise ConfigError("compare: name the page to write with --out")
    print_table(compare_runs(runs, out))
    say_all([f"page: {out}"])
