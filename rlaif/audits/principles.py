"""What each principle adds, and what it should weigh: the human-labelled pairs are judged once, then read again.

`ablate` leaves principles out, or lets each stand alone: the principles' own judgments are put together again and no
model is asked. `fit_constitution` fits the weights (`feedback/weights.py`) and writes a new version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rlaif.audits.gold import GoldLabels, read_gold
from rlaif.audits.judge_training.record import refuse_seen
from rlaif.audits.judges import judge_gold, open_judges
from rlaif.config import Recipe
from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.config.judging import ChecklistMode, PanelMode, RankMode
from rlaif.constitution import Constitution, load_constitution, write_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge import JudgeResult, check_failure_cap
from rlaif.feedback.labelled import agreement, decided, match
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import Decided, aggregate
from rlaif.feedback.weights import Loss, WeightFit, fit_header, fit_weights, hits, labelled_pairs, reweighted
from rlaif.records import Judgment
from rlaif.resources import resolve
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference, mean_of

FAR_FROM_EVEN = 1e-6
"""Log-odds are summed in another order than by the judge: nearer than this to even, a choice may turn."""


class Ablation(NamedTuple):
    """One variant of a constitution against the whole of it, on the pairs that both can label."""

    principle: str
    """Which one is left out, or stands alone."""
    variant: Literal["without", "alone"]
    accuracy: Estimate | None
    """Of the variant; None where it labels no pair."""
    difference: Estimate | None
    """`accuracy` less that of the whole constitution on the same pairs, paired, resampled by prompt. Below 0 for
    `without`: the principle helps. Pairs to which no principle of the variant applies are in neither figure."""


class AblationResult(NamedTuple):
    """The whole constitution, and for each principle in its order the two variants: without it, and it alone."""

    whole: Estimate
    rows: tuple[Ablation, ...]


class ConstitutionFit(NamedTuple):
    """A constitution with fitted weights. The estimates are of accuracy on the held-out pairs, by prompt."""

    fit: WeightFit
    constitution: Constitution
    before: Estimate
    """With the weights as they were."""
    after: Estimate
    gain: Estimate
    """`after` less `before`, paired."""


def judge_and_ablate(recipe: Recipe, gold: Sequence[Path]) -> AblationResult:
    """`ablate` on what the recipe's judge says of these files of human labels."""
    check_ablatable(recipe.label)
    scope = ",".join(str(path.resolve()) for path in gold)
    labels, constitution, result = _judged(recipe, gold, recipe.label, scope)
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    return ablate(result.judgments, labels.judgments, constitution, recipe.label, recipe.seed, bootstrap)


def _judged(
    recipe: Recipe, gold: Sequence[Path], section: LabelSection, scope: str
) -> tuple[GoldLabels, Constitution, JudgeResult]:
    labels = read_gold(gold)
    refuse_seen(recipe, [label.pair for label in labels.judgments])
    constitution = load_constitution(recipe.constitution)
    with open_judges(recipe.judge, scope) as judges:
        return labels, constitution, judge_gold(judges.cached, labels, constitution, section, recipe.seed)


def ablate(
    judgments: Sequence[Judgment],
    gold: Sequence[Judgment],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    bootstrap: Bootstrap,
) -> AblationResult:
    """The accuracy of the constitution, without each of its principles, and of each alone.

    Accuracy is the audit's: human ties are left out, an exactly even p(a) is half right. Principles are joined as
    `section.aggregation` says, vetoes included.

    Raises ConfigError for `sample`, which asks one principle per pair (judge with `mean` to ablate), and for a mode
    whose label is not made of its principles pair by pair (a panel, a ranking). Raises DataError when a judgment lacks
    a principle of the constitution or has another one, and when no pair has a human preference.
    """
    check_ablatable(section)
    items = decided(match(judgments, gold))
    if not items:
        raise DataError("ablate: no judged pair has a human preference")
    parts = [_parts(item.judgment, constitution, section, seed) for item in items]

    def hit(i: int, decisions: Sequence[Decided]) -> float:
        return agreement(choice(_joined(items[i].judgment, decisions, section, seed)), items[i].p_human)

    whole = [hit(i, decisions) for i, decisions in enumerate(parts)]
    clusters = [item.prompt_id for item in items]

    def variant(name: str, which: Literal["without", "alone"]) -> Ablation:
        kept = [[d for d in decisions if (d[0].id == name) == (which == "alone")] for decisions in parts]
        right = {i: hit(i, decisions) for i, decisions in enumerate(kept) if decisions}
        return Ablation(
            principle=name,
            variant=which,
            accuracy=mean_of(((one, clusters[i]) for i, one in right.items()), bootstrap),
            difference=mean_of(((one - whole[i], clusters[i]) for i, one in right.items()), bootstrap, (-1.0, 1.0)),
        )

    return AblationResult(
        whole=clustered_mean(whole, clusters, *bootstrap),
        rows=tuple(variant(p.id, which) for p in constitution.principles for which in ("without", "alone")),
    )


def check_ablatable(section: LabelSection) -> None:
    """The ConfigErrors of `ablate` that need no judgments: worth raising before any is made."""
    if isinstance(section.aggregation, SampleOne):
        raise ConfigError(
            "label.aggregation: sample asks one principle a pair, so no other can be put in its place; "
            "judge with label.aggregation.kind=mean to ablate"
        )
    if isinstance(section.mode, PanelMode | RankMode):
        raise ConfigError(
            f"label.mode: {section.mode.kind}: its label is not made of principles pair by pair; ablate by a mode "
            "whose label is, of a panel one member's"
        )


def _parts(judgment: Judgment, constitution: Constitution, section: LabelSection, seed: int) -> list[Decided]:
    """What each principle says of the pair, in the constitution's order, if these and nothing else made its label."""
    where = f"judgment of pair {judgment.pair.id}"
    said = {principle.principle: principle for principle in judgment.principles}
    principles = constitution.for_tags(judgment.pair.tags)
    expected = [principle.id for principle in principles]
    missing, other = sorted(set(expected) - set(said)), sorted(set(said) - set(expected))
    if missing:
        raise DataError(f"{where}: says nothing of principle '{missing[0]}'; judge again with this constitution")
    if other:
        raise DataError(f"{where}: principle '{other[0]}' is not one of {expected}; judge again with this constitution")
    parts = [(p, said[p.id]) for p in principles]
    stored = judgment.p_a if judgment.p_raw is None else judgment.p_raw
    again = _joined(judgment, parts, section, seed)
    if (stored - 0.5) * (again - 0.5) < 0 and min(abs(stored - 0.5), abs(again - 0.5)) > FAR_FROM_EVEN:
        raise ConfigError(
            f"{where}: p_a is {stored:.3g}, but its principles together give {again:.3g} by "
            f"label.aggregation.kind={section.aggregation.kind}; ablate needs the aggregation that it was judged with, "
            "and a mode that labels each pair by itself"
        )
    return parts


def _joined(judgment: Judgment, decisions: Sequence[Decided], section: LabelSection, seed: int) -> float:
    return aggregate(decisions, section.aggregation, section.check_margin, seed, judgment.pair.id)


def fit_constitution(recipe: Recipe, gold: Sequence[Path], out: Path, loss: Loss = "logistic") -> ConstitutionFit:
    """Fit the constitution's weights to the human labels by its checklist and write the new version to `out`.

    Raises ConfigError for an `out` that is no YAML file or is the constitution itself, JudgeError where more pairs
    fail than the recipe allows, DataError where too few are left.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{out}: the constitution to write must be a .yaml file")
    if out.resolve() == resolve("constitutions", recipe.constitution).resolve():
        raise ConfigError(f"{out}: is the constitution to be fitted, which would lose its comments; name another file")
    mode = recipe.label.mode if isinstance(recipe.label.mode, ChecklistMode) else ChecklistMode()
    section = recipe.label.model_copy(update={"mode": mode})
    labels, constitution, result = _judged(recipe, gold, section, str(out.resolve()))
    check_failure_cap(result, len(labels.judgments), section)
    found = labelled_pairs(labels.judgments, result.scores)
    fit = fit_weights(found, [p.id for p in constitution.principles], loss, seed=recipe.seed)
    before = hits(fit.heldout, {p.id: p.weight for p in constitution.principles})
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    fitted = reweighted(constitution, fit)
    write_constitution(out, fitted, fit_header(constitution, fit))
    return ConstitutionFit(
        fit=fit,
        constitution=fitted,
        before=clustered_mean(before, fit.prompt_ids, *bootstrap),
        after=clustered_mean(fit.hits, fit.prompt_ids, *bootstrap),
        gain=clustered_mean_difference(before, fit.hits, fit.prompt_ids, bootstrap),
    )
