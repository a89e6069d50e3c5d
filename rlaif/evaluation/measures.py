"""What the measures of `evaluate.measures` say of one text, and how much each changed: paired, over prompts.

An instrument is pure: a text gives a number, or None where the text has nothing to measure. None is counted and never
replaced by a number. Training often makes answers shorter, and many measures move with length alone. So each difference
is also taken at equal length: of every pair the longer text is cut after as many words as the shorter has, and both are
measured again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import fmean
from typing import Any, Literal

from rlaif.config import Recipe
from rlaif.config.measures import (
    Better,
    CodeMeasure,
    Lexicon,
    LongWords,
    Measure,
    Readability,
    Syllables,
    WordCount,
    title,
)
from rlaif.config.models import ScriptedModel, engine_of
from rlaif.config.scoring import LengthScore, Scored
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, RlaifError, shown
from rlaif.evaluation.winrate import Match
from rlaif.formats.turns import own_text
from rlaif.models.scripted import load_function, said
from rlaif.signals import measured
from rlaif.signals.plain import grade, syllable_counts
from rlaif.signals.tally import words
from rlaif.stats import Bootstrap, Bounds, change, clustered_mean_difference

_PIECE = re.compile(r"\S+")


@dataclass(frozen=True)
class Instrument:
    """One measure, ready to use."""

    name: str
    kind: str
    unit: Literal["number", "share"]
    better: Better | None
    value: Callable[[str], float | None]
    """Asked once per text."""
    seen: str | None = None
    """Which part of the run looks at the same thing, so that the measure is no independent one."""

    @property
    def side(self) -> Better:
        """The side on which agreement is counted: the wanted one, or the lower."""
        return self.better or "lower"

    def of(self, part: Callable[[str], str]) -> Instrument:
        """The same of a part of each text."""
        value = self.value
        return replace(self, value=lambda text: value(part(text)))


def instruments(measures: Sequence[Measure]) -> tuple[Instrument, ...]:
    """The instruments of these measures. ConfigError for a function that cannot be loaded."""
    return tuple(_instrument(measure) for measure in measures)


def instruments_of(recipe: Recipe, constitution: Constitution) -> tuple[Instrument, ...]:
    """The recipe's instruments, each with what the run has `seen` of it, as far as that can be told."""
    found = zip(recipe.evaluate.measures, instruments(recipe.evaluate.measures), strict=True)
    return tuple(replace(one, seen=seen_by(measure, recipe, constitution)) for measure, one in found)


def seen_by(measure: Measure, recipe: Recipe, constitution: Constitution) -> str | None:
    """Which part of the run looks at what the measure looks at: a check of length, a score of length, a scripted judge
    of the function's own module. None where none does."""
    if isinstance(measure, WordCount):
        counting = [p.id for p in constitution.principles if p.check and p.check.kind in {"max_words", "min_words"}]
        method = recipe.optimise
        scored = isinstance(method, Scored) and any(isinstance(s, LengthScore) for s in method.sources)
        return f"the check {counting[0]}" if counting else "the score" if scored else None
    if isinstance(measure, CodeMeasure) and isinstance(engine_of(recipe.judge), ScriptedModel):
        same = measure.function.partition(":")[0] == recipe.judge.model.partition(":")[0]
        return "the judge, a function of the same module" if same else None
    return None


def cut_to_equal_length(one: str, other: str) -> tuple[str, str]:
    """Both texts up to as many pieces between white space as the shorter has."""
    ends = [[piece.end() for piece in _PIECE.finditer(text)] for text in (one, other)]
    shorter = min(map(len, ends))
    return (one[: ends[0][shorter - 1]], other[: ends[1][shorter - 1]]) if shorter else ("", "")


def _instrument(measure: Measure) -> Instrument:
    value: Callable[[str], float | None]
    unit: Literal["number", "share"]
    match measure:
        case Readability():
            value, unit = lambda text: grade(text, measure.formula, measure.min_words), "number"
        case Syllables():
            value, unit = lambda text: _mean(syllable_counts(text)), "number"
        case LongWords():
            long = measure.syllables
            value, unit = lambda text: _mean([count >= long for count in syllable_counts(text)]), "share"
        case WordCount():
            value, unit = lambda text: float(len(words(text))), "number"  # an empty text has 0 words: a measurement
        case Lexicon():
            listed = frozenset(word.casefold() for word in measure.words)
            value, unit = lambda text: _mean([word.casefold() in listed for word in words(text)]), "share"
        case CodeMeasure():
            function = load_function(measure.function, "evaluate.measures: function")
            value, unit = partial(_by_function, function, measure), measure.unit
    return Instrument(title(measure), measure.kind, unit, measure.better, cache(value))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _by_function(function: Callable[[str], object], measure: CodeMeasure, text: str) -> float | None:
    """What the user's function says. ConfigError, naming its place, where it raises or gives what is no number."""
    place = f"evaluate.measures: {measure.function}"
    try:
        value = function(text)
        value = value.item() if hasattr(value, "item") else value  # numpy's and torch's numbers are numbers
    except (RlaifError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit too: a measure must not end a run as if it were done
        raise ConfigError(f"{place}: {said(error)} on {shown(text)}") from error
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{place}: must return a number or None (got {shown(value)} on {shown(text)})")
    if measure.unit == "share" and not 0 <= value <= 1:
        raise ConfigError(f"{place}: unit is 'share', so it must return 0 to 1 (got {shown(value)} on {shown(text)})")
    return float(value)


# ------------------------------------------------------------------------------------------------ changes

BOUNDS: dict[str, Bounds | None] = {"share": (0.0, 1.0), "number": None}


def measure_changes(
    instruments: Sequence[Instrument], matched: Sequence[Match], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """One entry per instrument, in order: the change over the pairs in which both responses have a value.

    `without_value` counts responses that have none. Without any pair the figures are None. `equal_length` is the
    difference at equal length; None for the number of words.
    """
    return [_entry(instrument, matched, bootstrap) for instrument in instruments]


def signal_changes(constitution: Constitution, matched: Sequence[Match], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """As `measure_changes`, of what the classifier of each principle says where the principle applies: the number
    itself, of which `pass_rate` has only the limits. At equal length nothing is measured."""
    found = []
    for p in constitution.principles:
        if (signal := p.classifier) is not None:
            here = [m for m in matched if p in constitution.for_tags(m.after.tags)]
            sides = [[measured(signal, own_text(r), r.prompt) for r in (m.before, m.after)] for m in here]
            better: Better | None = "lower" if signal.at_least is None else "higher"
            better = better if None in (signal.at_least, signal.at_most) else None
            named = Instrument(f"{p.id} ({signal.kind})", signal.kind, "number", better, _no_value, "the classifier")
            found.append(_entry(named, here, bootstrap, [(one, two) for one, two in sides], cut=False))
    return found


def _no_value(text: str) -> float | None:
    return None


def _entry(
    instrument: Instrument,
    matched: Sequence[Match],
    bootstrap: Bootstrap,
    pairs: Sequence[tuple[float | None, float | None]] | None = None,
    cut: bool = True,
) -> dict[str, Any]:
    texts = [(own_text(m.before), own_text(m.after)) for m in matched]
    if pairs is None:
        pairs = [(instrument.value(one), instrument.value(two)) for one, two in texts]
    entry: dict[str, Any] = {
        "name": instrument.name,
        "kind": instrument.kind,
        "unit": instrument.unit,
        "better": instrument.better,
        "seen": instrument.seen,
        "without_value": {"before": sum(x is None for x, _ in pairs), "after": sum(y is None for _, y in pairs)},
    }
    bounds = BOUNDS[instrument.unit]
    known = _known(pairs, matched)
    if not known[0]:
        return entry | {"before": None, "after": None, "difference": None, "equal_length": None}
    entry |= change(*known, bootstrap, bounds) | {"equal_length": None}
    if cut and instrument.kind != "words":
        shorter = [cut_to_equal_length(one, two) for one, two in texts]
        at_equal = _known([(instrument.value(one), instrument.value(two)) for one, two in shorter], matched)
        if at_equal[0]:
            reach = None if bounds is None else (-1.0, 1.0)
            entry["equal_length"] = clustered_mean_difference(*at_equal, bootstrap, reach).model_dump()
    return entry


def _known(
    pairs: Sequence[tuple[float | None, float | None]], matched: Sequence[Match]
) -> tuple[list[float], list[float], list[str]]:
    """Values before and after and the prompt, of the pairs in which both have one."""
    both = [(x, y, m.after.prompt_id) for (x, y), m in zip(pairs, matched, strict=True) if None not in (x, y)]
    return [x for x, _, _ in both if x is not None], [y for _, y, _ in both if y is not None], [p for _, _, p in both]
