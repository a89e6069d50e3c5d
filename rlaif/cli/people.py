"""Commands about people's feedback: route, annotate, annotators, conflicts, export. Thin, as the whole command line."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif.cli.options import out_option, say_all

if TYPE_CHECKING:
    from rlaif.annotate.route import Conflict
    from rlaif.feedback.annotators.labels import Alpha
    from rlaif.feedback.annotators.trust import Examination
    from rlaif.stats import Estimate

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ROUTERS = "random, uncertainty, swap_gap, disagreement, margin (of the reward model) or predicted (errors of the judge)"
TARGETS = (
    "trl, trl-implicit, openrlhf, openrlhf-chat, llamafactory, verl, nemo-rl, nemo-rl-binary, axolotl, argilla or "
    "label-studio"
)
COLUMNS = ("annotator", "labels", "agrees", "gold", "accuracy", "seconds", "prefers first", "ties", "verdict")
LEGEND = (
    "agrees: with the majority of the others; gold: right on gold questions; accuracy: Dawid-Skene, from agreement "
    "alone. In brackets 95 % intervals."
)
MADE_UP = "simulated: made-up answers of `rlaif annotators simulate`, no person's"

MOST_SHOWN = 400
"""Characters of a text that `conflicts` shows; the file has the rest."""

annotators_app = typer.Typer(no_args_is_help=True, help="Who labelled, how far each is believed; simulated annotators.")


def route(
    run: RunFolder,
    budget: Annotated[int, typer.Option(min=1, help="How many pairs people can look at.")],
    by: Annotated[str, typer.Option(metavar="ROUTER", help=ROUTERS)] = "uncertainty",
    random_share: Annotated[
        float, typer.Option(min=0, max=1, help="Spent at random: only that says how good the judge is.")
    ] = 0.2,
    gold: Annotated[list[Path] | None, typer.Option(help="Human labels for --by predicted.")] = None,
) -> None:
    """Choose which judged pairs go to people under a budget; `rlaif annotate` then shows them."""
    from rlaif.annotate.route import route as choose
    from rlaif.console import say

    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {number:+.2f}" for name, number in value.items())
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    found = choose(run, budget, by, random_share, gold or [])
    say(f"{found.pairs} of {found.unlabelled} unlabelled pairs, {found.by_chance} of them by chance, the rest by {by}")
    for name, value in found.facts.items():
        say(f"  {name}: {told(value)}")
    say(f"next: rlaif annotate {run}")


def annotate(
    run: RunFolder,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: 8765, or the next free.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Pairs to show (JSONL) instead of the run's.")] = None,
    per_pair: Annotated[int, typer.Option(min=1, help="People who see each pair.")] = 1,
    gold: Annotated[Path | None, typer.Option(help="Labelled pairs to mix in, which test people.")] = None,
    principles: Annotated[bool, typer.Option(help="Let people choose by principle, too.")] = True,
) -> None:
    """Serve a page on this machine where people compare responses; answers become this run's annotations."""
    from rlaif.annotate.app import serve_page
    from rlaif.config import load_recipe
    from rlaif.console import say
    from rlaif.formats import Annotations
    from rlaif.run_folder import Run
    from rlaif.words import counted

    done = serve_page(run, port, pairs, per_pair, gold, principles)
    if not done.answers:
        say("no answers yet")
        return
    files = Run(run)
    edits = f", {done.edits} with an edit" if done.edits else ""
    say(f"{counted(done.answers, 'answer')} of {counted(done.annotators, 'annotator')}{edits} in {files.annotations}")
    here = shlex.quote(str(run))
    sources = load_recipe(str(files.recipe)).preferences.human_data if files.recipe.exists() else ()
    if any(isinstance(source, Annotations) and source.run is None for source in sources):
        say(f"next: rlaif run {shlex.quote(str(files.recipe))} --out {here}")
    else:
        say(f"next: rlaif run RECIPE preferences.labels.human_data='[{{kind: annotations, run: {here}}}]' --out FOLDER")


def conflicts(run: RunFolder, count: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5) -> None:
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
        say_all([*_conflict_lines(conflict), ""])
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
    to: Annotated[str | None, typer.Option(metavar="TARGET", help=TARGETS)] = None,
    out: Annotated[
        Path | None, out_option("The file (JSONL, or .parquet); with --what a folder: nothing is sent.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="With a card, into this repository.")
    ] = None,
    what: Annotated[
        str | None, typer.Option(metavar="reward_model|policy|preferences", help="What goes. Default: preferences.")
    ] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Who sees the repository. Default: only you.")
    ] = None,
) -> None:
    """Preferences in another tool's format; or a model or preferences, with a card, for the hub."""
    from rlaif.console import say
    from rlaif.errors import ConfigError, refuse_given
    from rlaif.feedback.export import FORMATS, export_preferences

    if push_to_hub is None or out is not None:
        seen = {None: None, True: "--public", False: "--private"}[public]
        refuse_given({str(seen): seen}, "is for --push-to-hub without --out; nothing is sent here, so leave it out")
    if push_to_hub is not None or what is not None:
        from rlaif.share.push import share

        if to is not None:
            raise ConfigError(f"--to {to}: is for a file; the hub gets the rows as they are, so leave it out")
        say(share(source, "preferences" if what is None else what, push_to_hub, out, bool(public)))
        return
    if to is None or out is None:
        raise ConfigError("export: give --to FORMAT and --out FILE, or --push-to-hub OWNER/NAME (and --what)")
    done = export_preferences(source, to, out)
    say(f"{out}: {done.rows} rows")
    if done.heldout_file:
        say(f"{done.heldout_file}: {done.heldout} rows, held out")
    if done.ties:
        say(f"{done.ties} ties left out: {to} has no place for them")
    if done.blank:
        say(f"{done.blank} rows left out: a side is empty, or both are the same but for white space")
    if (beside := FORMATS[to].beside_of(out)) is not None:
        say(f"{beside}: what {to} reads beside it")


@annotators_app.command()
def report(
    sources: Annotated[list[Path], typer.Argument(metavar="RUN|FILE...", help="Run folders, or files of labels.")],
    gold: Annotated[list[Path] | None, typer.Option(help="Labels known to be right.")] = None,
    remove: Annotated[str, typer.Option(help="Rules, as min_gold_accuracy=0.6,min_seconds=2.")] = "",
    out: Annotated[Path | None, out_option("The same figures as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
) -> None:
    """Everyone who labelled: agreement, gold questions, Dawid-Skene, speed, and Krippendorff's alpha."""
    from rlaif.annotate.publish import publish
    from rlaif.config.feedback import AnnotatorsSection
    from rlaif.feedback.annotators.trust import examine, removal_of
    from rlaif.feedback.human import read_labels
    from rlaif.jsonl import write_json
    from rlaif.run_folder import Run

    for folder in (source for source in sources if source.is_dir()):
        publish(Run(folder))  # the answers of a page that is served right now are in its database
    rules = removal_of(remove)
    labels = [judgment for path in sources for judgment in read_labels(path)]
    answers = [judgment for path in gold or [] for judgment in read_labels(path)]
    examined = examine(labels, answers, AnnotatorsSection(remove=rules), seed)
    say_all(_lines(examined))
    if out is not None:
        write_json(out, examined.summary())
        say_all([f"figures: {out}"])


def _lines(examined: Examination) -> list[str]:
    """The whole report, as an aligned table."""
    from rlaif.console import aligned
    from rlaif.words import whole_percents

    def rate(one: Estimate | None) -> str:
        return "-" if one is None else f"{one.value:.0%} ({whole_percents(one)})"

    def alpha(found: Alpha | None) -> str:
        if found is None:
            return "unknown, no pair has two labels that say something"
        span = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
        return f"{found.value:.2f}{span} on {found.units} pairs with {found.labels} labels"

    rows = [
        (
            f"{one.annotator} (simulated)" if one.simulated and "simulated" not in one.annotator else one.annotator,
            str(one.labels),
            rate(one.agreement),
            rate(one.gold),
            "-" if one.accuracy is None else f"{one.accuracy:.0%}",
            "-" if one.seconds is None else f"{one.seconds:.3g}",
            rate(one.first),
            f"{one.ties:.0%}",
            f"removed: {one.removed}" if one.removed else "kept",
        )
        for one in examined.annotators
    ]
    gold = f", {examined.gold_labels} of them of gold questions" if examined.gold_labels else ""
    return [
        f"{len(rows)} annotators gave {examined.labels} labels of {examined.pairs} pairs{gold}",
        *aligned([COLUMNS, *rows]),
        f"Krippendorff's alpha: {alpha(examined.alpha)}",
        *([f"without those removed: {alpha(examined.alpha_kept)}"] if examined.removed else []),
        LEGEND,
        *([MADE_UP] if any(one.simulated for one in examined.annotators) else []),
    ]


@annotators_app.command()
def simulate(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="Labels that are taken for the truth.")],
    crew: Annotated[str, typer.Option(help="As careful:3,lazy:2,flipper:1.")],
    out: Annotated[Path, out_option("The labels to write (JSONL).")],
    per_pair: Annotated[int, typer.Option(min=1, help="How many of them see each pair.")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Made-up labels of made-up annotators with known faults, marked as simulated wherever they appear."""
    from rlaif.console import say
    from rlaif.errors import ConfigError
    from rlaif.feedback.annotators import simulate as simulation
    from rlaif.feedback.human import read_labels
    from rlaif.jsonl import write_jsonl

    annotators = simulation.crew_of(crew)
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is the source, whose labels it would replace; name another file")
    rows = simulation.simulate(read_labels(source), annotators, per_pair, seed)
    write_jsonl(out, rows)
    pairs = len({row.pair.id for row in rows})
    say(f"{len(rows)} simulated labels of {pairs} pairs by {len(annotators)} simulated annotators: {out}")
    say(MADE_UP)
