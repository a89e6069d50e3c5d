"""`rlaif annotators report` and `simulate`: files in, lines to print out. Simulated annotators are named as such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from rlaif.config.feedback import AnnotatorsSection, Removal
from rlaif.console import aligned
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.annotators.credibility import AnnotatorReport, Rate
from rlaif.feedback.annotators.labels import Alpha
from rlaif.feedback.annotators.simulate import crew_of, simulate
from rlaif.feedback.annotators.trust import Examination, examine
from rlaif.feedback.human import read_human, source_of
from rlaif.formats import Annotations, AnyForm, LabelSource
from rlaif.jsonl import first_problem, write_json, write_jsonl
from rlaif.records import Judgment
from rlaif.run_folder import Run

NONE = "-"
COLUMNS = ("annotator", "labels", "agrees", "gold", "accuracy", "skill", "seconds", "prefers first", "ties", "verdict")
LEGEND = (
    "agrees: with the majority of the others; gold: right on gold questions; accuracy: Dawid-Skene, from agreement "
    "alone; skill: noisy Bradley-Terry. In brackets 95 % intervals."
)
MADE_UP = "simulated: made-up answers of `rlaif annotators simulate`, no person's"


def annotators_command(
    paths: Sequence[Path], gold: Sequence[Path] = (), out: Path | None = None, remove: str = "", seed: int = 0
) -> list[str]:
    """A table of everyone who labelled in these files or run folders, and Krippendorff's alpha.

    A run's people (its annotation page) and judge stand side by side. `gold`: files of labels that are known to be
    right. `remove`: rules like `min_gold_accuracy=0.6,min_seconds=2`, whose outcome the last column tells; without
    them nobody is removed. `out`: the same figures as JSON. ConfigError for a rule, DataError for a file that cannot
    be used.
    """
    rules = removal_of(remove)
    labels = [judgment for path in paths for judgment in read_labels(path)]
    answers = [judgment for path in gold for judgment in read_labels(path)]
    examined = examine(labels, answers, AnnotatorsSection(remove=rules), seed)
    if out is not None:
        write_json(out, examined.summary())
    return [*table(examined), *([f"figures: {out}"] if out else [])]


def simulate_command(source: Path, crew: str, per_pair: int, seed: int, out: Path) -> list[str]:
    """What a simulated crew answers on the pairs of a file or run, whose labels it takes for the truth.

    Writes judgments (JSONL), to be used like people's. `crew`: `careful:3,lazy:2,flipper:1` (`crew_of`).
    """
    annotators = crew_of(crew)
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is the source, whose labels it would replace; name another file")
    rows = simulate(read_labels(source), annotators, per_pair, seed)
    write_jsonl(out, rows)
    pairs = len({row.pair.id for row in rows})
    return [
        f"{len(rows)} simulated labels of {pairs} pairs by {len(annotators)} simulated annotators: {out}",
        MADE_UP,
    ]


def removal_of(text: str) -> Removal:
    """`min_gold_accuracy=0.6,min_seconds=2` as rules; ConfigError for anything else."""
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"remove {text!r}: {part!r} is not of the form name=value")
        if name not in Removal.model_fields:
            raise ConfigError(f"remove {text!r}: no rule {name!r}{did_you_mean(name, Removal.model_fields)}")
        values[name] = value
    try:
        return Removal.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"remove {text!r}: {first_problem(error)}") from None


def read_labels(given: Path | str) -> list[Judgment]:
    """All labels of a file or source, whoever gave them; of a run: its people's and its judge's.

    DataError for what is missing, empty or of another shape.
    """
    source = source_of(given)
    run = Run(Path(given))
    sources: list[LabelSource] = [source]
    if isinstance(source, Annotations) and run.folder.is_dir():
        files = [file for file in (run.annotations, run.judgments) if file.exists()]
        if not files:
            raise DataError(f"{given}: a run without labels: neither {run.annotations.name} nor {run.judgments.name}")
        sources = [AnyForm(path=str(file)) for file in files]
    return read_human(sources, run, what=str(given), judges=True).judgments


# ------------------------------------------------------------------------------------------------- words


def table(examined: Examination) -> list[str]:
    """The whole report as aligned lines."""
    rows = [COLUMNS, *(_row(report) for report in examined.reports)]
    gold = f", {examined.gold_labels} of them of gold questions" if examined.gold_labels else ""
    people = f"{len(examined.reports)} annotators gave {examined.labels} labels of {examined.pairs} pairs{gold}"
    return [
        people,
        *aligned(rows),
        f"Krippendorff's alpha: {_alpha(examined.alpha)}",
        *([f"without those removed: {_alpha(examined.alpha_kept)}"] if examined.removed else []),
        LEGEND,
        *([MADE_UP] if any(report.simulated for report in examined.reports) else []),
    ]


def _row(report: AnnotatorReport) -> tuple[str, ...]:
    name = report.annotator
    return (
        f"{name} (simulated)" if report.simulated and "simulated" not in name else name,
        str(report.labels),
        _rate(report.agreement),
        _rate(report.gold),
        _share(report.accuracy),
        _share(report.skill),
        NONE if report.seconds is None else f"{report.seconds:.3g}",
        _rate(report.first),
        _share(report.ties),
        f"removed: {report.removed}" if report.removed else "kept",
    )


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%}"


def _rate(rate: Rate | None) -> str:
    return NONE if rate is None else f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})"


def _alpha(found: Alpha | None) -> str:
    if found is None:
        return "unknown, no pair has two labels that say something"
    span = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.value:.2f}{span} on {found.units} pairs with {found.labels} labels"
