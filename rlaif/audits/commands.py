"""`rlaif constitution ablate` and `fit`: judge the human-labelled pairs once, then leave principles out, or weigh them.

The statistics are in `ablate.py` and `feedback/weights.py`; here a recipe and files go in and words come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlaif.audits.ablate import Ablation, AblationResult, ablate, check_ablatable
from rlaif.audits.gold import read_gold
from rlaif.audits.judge_training.record import refuse_seen
from rlaif.audits.judges import judge_gold, open_judges
from rlaif.config import Recipe
from rlaif.config.judging import ChecklistMode
from rlaif.console import aligned
from rlaif.constitution import load_constitution, write_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge import check_failure_cap
from rlaif.feedback.weights import (
    Loss,
    fit_header,
    fit_weights,
    hits,
    labelled_pairs,
    reweighted,
)
from rlaif.resources import resolve
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference
from rlaif.words import direction, with_interval


def ablate_command(recipe: Recipe, gold: Sequence[Path]) -> list[str]:
    """Agreement with the human labels of these files: the whole constitution, and each principle left out or alone."""
    check_ablatable(recipe.label)
    labels = read_gold(gold)
    refuse_seen(recipe, [label.pair for label in labels.judgments])
    constitution = load_constitution(recipe.constitution)
    scope = ",".join(str(path.resolve()) for path in gold)
    with open_judges(recipe.judge, scope) as judges:
        result = judge_gold(judges.cached, labels, constitution, recipe.label, recipe.seed)
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    return table(
        ablate(result.judgments, labels.judgments, constitution, recipe.label, recipe.seed, bootstrap),
        recipe.evaluate.confidence,
    )


def fit_command(recipe: Recipe, gold: Sequence[Path], out: Path, loss: Loss = "logistic") -> list[str]:
    """Fit the constitution's weights to the human labels by its checklist and write the new version to `out`.

    Returns what to print: held-out accuracy with the weights as they were and as fitted, with their paired difference.
    Raises ConfigError for an `out` that is no YAML file or is the constitution itself, JudgeError where more pairs
    fail than the recipe allows, DataError where too few are left.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{out}: the constitution to write must be a .yaml file")
    if out.resolve() == resolve("constitutions", recipe.constitution).resolve():
        raise ConfigError(f"{out}: is the constitution to be fitted, which would lose its comments; name another file")
    labels = read_gold(gold)
    refuse_seen(recipe, [label.pair for label in labels.judgments])
    constitution = load_constitution(recipe.constitution)
    mode = recipe.label.mode if isinstance(recipe.label.mode, ChecklistMode) else ChecklistMode()
    section = recipe.label.model_copy(update={"mode": mode})
    with open_judges(recipe.judge, str(out.resolve())) as judges:
        result = judge_gold(judges.cached, labels, constitution, section, recipe.seed)
    check_failure_cap(result, len(labels.judgments), section)
    found = labelled_pairs(labels.judgments, result.scores)
    fit = fit_weights(found, [p.id for p in constitution.principles], loss, seed=recipe.seed)
    before = hits(fit.heldout, {p.id: p.weight for p in constitution.principles})
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    old, new = (clustered_mean(values, fit.prompt_ids, *bootstrap) for values in (before, fit.hits))
    gain = clustered_mean_difference(before, fit.hits, fit.prompt_ids, bootstrap)
    fitted = reweighted(constitution, fit)
    write_constitution(out, fitted, fit_header(constitution, fit))
    weights = [f"  {p.id}: {p.weight:.3g}" for p in fitted.principles]
    dropped = [f"  dropped: {', '.join(fit.dropped)}"] if fit.dropped else []
    return [
        f"{loss} fit on {fit.trained} pairs; held out: {len(fit.hits)} pairs of {len(set(fit.prompt_ids))} prompts",
        f"held-out accuracy with the weights as they were {_percent(old)}, fitted {_percent(new)}, "
        f"difference {_points(gain)} points{_doubt(gain)}",
        *weights,
        *dropped,
        f"constitution {fitted.id} {fitted.version}: {out}",
    ]


def _doubt(gain: Estimate) -> str:
    return ": not to be told from none on so few pairs" if direction(gain) == "unclear" else ""


def table(result: AblationResult, confidence: float) -> list[str]:
    """One line a principle: agreement in percent, change against the whole in points."""
    by_name: dict[str, dict[str, Ablation]] = {}
    for row in result.rows:
        by_name.setdefault(row.principle, {})[row.variant] = row
    rows = [("principle", "without it", "change, points", "alone")]
    for name, variants in by_name.items():
        without, alone = variants["without"], variants["alone"]
        rows.append((name, _percent(without.accuracy), _points(without.difference), _percent(alone.accuracy)))
    return [
        f"Agreement with human labels: {_percent(result.whole)}; in brackets {confidence:.0%} intervals, by prompt",
        *aligned(rows),
    ]


def _percent(estimate: Estimate | None) -> str:
    return "no pairs" if estimate is None else with_interval(estimate)


def _points(estimate: Estimate | None) -> str:
    """Differences between versions of a constitution are small, so with one decimal."""
    return "" if estimate is None else with_interval(estimate, "fine points").replace(" points", "")
