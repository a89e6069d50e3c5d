"""Commands about runs: every stage, one stage, rounds, studies, and runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.options import NOTHING_CAME, Overrides, RecipeName, not_a_run_file, print_table, say_all
from rlaif.errors import ConfigError

STAGES = {
    "sample": "Only: the policy's responses to the prompts.",
    "label": "Only: the judge's verdicts on pairs of responses.",
    "pairs": "Only: judgments and human labels to preferences.",
    "reward": "Only: the reward model.",
    "optimise": "Only: the policy, by PPO or whatever `optimise.kind` says.",
    "evaluate": "Only: the policy against the reference on held-out prompts.",
    "report": "Only: the report page.",
}
Out = Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<recipe name>.")]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Do finished stages again where the recipe changed. Without it that is refused."),
]


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


def stage_command(stage: str) -> Callable[..., None]:
    """The command that runs this stage alone."""

    def command(recipe: RecipeName, overrides: Overrides = None, out: Out = None, redo: Redo = False) -> None:
        _run(recipe, overrides, out, [stage], redo=redo)

    return command


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
        say_all([f"report: {done.report}"])


def iterate(
    recipe: RecipeName,
    overrides: Overrides = None,
    *,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="How many, those done already included.")
    ] = None,
    from_feedback: Annotated[
        Path | None,
        typer.Option(
            "--from-feedback", metavar="FOLDER", help="One more, on what users said since the last: a service's folder."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Holds round-1, ... Default: runs/<name>-rounds.")] = None,
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
        say_all([f"nothing came in {from_feedback} since the last round"])
        raise typer.Exit(NOTHING_CAME)
    print_table(table)
    say_all([rounds_of.NOTES])


def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    out: Annotated[Path | None, typer.Option("--out", help="The study's folder. Default: studies/<name>.")] = None,
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
        Path | None,
        typer.Option(
            "--out",
            help="The page to write; the numbers go beside it as JSON. Not for a study.",
            callback=not_a_run_file,
        ),
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
