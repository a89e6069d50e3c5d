"""How far what was won holds for parts of the held-out prompts, and for sets of prompts that training never saw.

One entry per slice: win rate, reward gain and the change of the share that passes all checks, each with its interval
over prompts. A slice of few prompts says so and has no figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import compress, pairwise
from typing import Any, NamedTuple

import numpy as np

from rlaif.config.measures import Slices
from rlaif.constitution import Constitution
from rlaif.evaluation.evaluate import EvaluationInputs, all_checked
from rlaif.evaluation.winrate import Match, credits_of, matches, win_rate
from rlaif.pages import kit
from rlaif.records import Judgment
from rlaif.signals.tally import words
from rlaif.stats import Array, Bootstrap, Estimate, clustered_mean, estimate_at, interval
from rlaif.words import COIN, counted, with_interval

FIGURES = ("win_rate", "gain", "passes")


class Asked(NamedTuple):
    """Prompts that both policies answered."""

    matched: Sequence[Match]
    judgments: Sequence[Judgment]
    gains: Sequence[float] = ()
    """The reward model's score after less before, by match; empty without one."""

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> Asked:
        """What an evaluation looks at."""
        gains = [after - before for before, after in zip(inputs.scores_before, inputs.scores_after, strict=True)]
        return cls(matches(inputs.before, inputs.after), inputs.judgments, gains)

    def only(self, wanted: Sequence[bool]) -> Asked:
        """The matches that are wanted."""
        return self._replace(matched=list(compress(self.matched, wanted)), gains=list(compress(self.gains, wanted)))


def slices(
    section: Slices,
    heldout: Asked,
    outside: Asked | None,
    sets: Mapping[str, Container[str]],
    constitution: Constitution,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """The held-out prompts whole and in parts; then the sets, given by their prompts' ids, each and together, with how
    much more often the policy wins there."""

    def entry(by: str, name: str, part: Asked) -> dict[str, Any]:
        return _entry(by, name, part, section, constitution, bootstrap)

    found = [entry("in distribution", "held-out prompts", heldout)]
    for by, names in _parts(section, heldout.matched, bootstrap.seed):
        different = dict.fromkeys(name for own in names for name in own)
        for name in sorted(different, key=lambda name: int(name.split()[0])) if by == "length" else different:
            found.append(entry(by, name, heldout.only([name in own for own in names])))
    if outside is not None:
        for name, ids in sets.items():
            found.append(entry("set", name, outside.only([m.after.prompt_id in ids for m in outside.matched])))
        whole = entry("out of distribution", "all sets", outside)
        found.append(whole | {"beside_heldout": _beside(found[0], whole, heldout, outside, bootstrap)})
    return found


def _beside(
    inside: Mapping[str, Any], whole: Mapping[str, Any], heldout: Asked, outside: Asked, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """The win rate outside less that on held-out prompts; None where one of them has none."""
    if not inside["win_rate"] or not whole["win_rate"]:
        return None
    sides = [credits_of(one.matched, one.judgments) for one in (outside, heldout)]
    values = np.array([credit for side in sides for _, credit in side])
    out = np.repeat([1.0, 0.0], [len(side) for side in sides])

    def difference(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a resample may lack a side
            one, other = (weights @ (values * side) / (weights @ side) for side in (out, 1 - out))
        return np.asarray(one - other)

    ends = interval(difference, [match.after.prompt_id for side in sides for match, _ in side], bootstrap)
    low, high = ends or (None, None)
    value = whole["win_rate"]["value"] - inside["win_rate"]["value"]
    return Estimate(value=value, low=low, high=high, n=len(values)).model_dump()


def _parts(section: Slices, matched: Sequence[Match], seed: int) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """What the prompts are divided by, and for each match the names of the parts that it is in."""
    asked = [match.after.prompt[-1].content for match in matched]
    if section.tags:
        yield "tag", [match.after.tags for match in matched]
    if section.languages:
        from rlaif.signals.kinds import language_of  # noqa: PLC0415 (an extra)

        yield "language", [(language_of(text) or "unknown",) for text in asked]
    if section.lengths > 1:
        yield "length", _lengths([len(words(text)) for text in asked], section.lengths)
    if section.clusters > 1:
        yield "cluster", _clusters(asked, section.clusters, seed)


def _lengths(counts: Sequence[int], parts: int) -> list[tuple[str, ...]]:
    """About equally many in each part; equal counts stay together."""
    edges = sorted({*np.quantile(counts, np.linspace(0, 1, parts + 1)[1:], method="lower").tolist()})
    ends = [next(end for end in edges if count <= end) for count in counts]
    least = {end: min(count for count in counts if count > below) for below, end in pairwise([-1, *edges])}
    return [(counted(end, "word") if least[end] == end else f"{least[end]} to {end} words",) for end in ends]


def _clusters(texts: Sequence[str], most: int, seed: int) -> list[tuple[str, ...]]:
    """k-means over the texts' vectors; a cluster bears its own text that is nearest to its centre."""
    from sklearn.cluster import KMeans  # noqa: PLC0415 (slow to import)

    from rlaif.signals.embedding import embed  # noqa: PLC0415 (an extra)

    different = list(dict.fromkeys(texts))
    rows = embed(different)
    fitted = KMeans(min(most, len(np.unique(rows, axis=0))), n_init=10, random_state=seed % 2**32).fit(rows)
    label = {}
    for c, centre in enumerate(fitted.cluster_centers_):
        own = np.flatnonzero(fitted.labels_ == c)
        text = textwrap.shorten(different[own[(rows[own] @ centre).argmax()]], 60, placeholder=" ...")
        label[c] = f"{c + 1}, like {text!r}"  # the number tells two apart whose texts begin alike
    of = {text: label[int(c)] for text, c in zip(different, fitted.labels_, strict=True)}
    return [(of[text],) for text in texts]


def _entry(
    by: str, name: str, part: Asked, section: Slices, constitution: Constitution, bootstrap: Bootstrap
) -> dict[str, Any]:
    prompts = len({match.after.prompt_id for match in part.matched})
    entry: dict[str, Any] = {"by": by, "name": name, "prompts": prompts, "responses": len(part.matched)}
    entry |= dict.fromkeys(FIGURES)
    if prompts < section.min_prompts:
        return entry | {"note": f"fewer prompts than evaluate.slices.min_prompts ({section.min_prompts})"}
    if won := win_rate(part.matched, part.judgments, constitution, bootstrap):
        entry["win_rate"] = won
        if won["unjudged"]:
            entry["note"] = f"{counted(won['unjudged'], 'answer')} without a judgment in no win rate"
    if part.gains:
        clusters = [match.after.prompt_id for match in part.matched]
        entry["gain"] = clustered_mean(part.gains, clusters, *bootstrap, bounds=None).model_dump()
    if passes := all_checked(constitution, part.matched, bootstrap):
        entry["passes"] = passes["difference"]
    return entry


def slices_part(evaluation: Mapping[str, Any]) -> list[kit.Part]:
    """The slices for a person; those of few prompts in one sentence."""
    entries = evaluation.get("slices", ())
    few = [f"{entry['by']} {entry['name']} ({entry['prompts']:,})" for entry in entries if _is_few(entry)]
    rows = [
        (
            kit.Cell(f"{entry['by']}: {entry['name']}", entry.get("note", "")),
            f"{entry['prompts']:,}",
            kit.cell(estimate_at(entry, "win_rate"), "share", COIN),
            kit.cell(estimate_at(entry, "gain"), "signed", 0.0),
            kit.cell(estimate_at(entry, "passes"), "points", 0.0),
        )
        for entry in entries
        if not _is_few(entry)
    ]
    beside = estimate_at(entries[-1], "beside_heldout") if entries else None
    said = f"Win rate on all sets less that on held-out prompts: {with_interval(beside, 'points')}."
    return kit.section(
        "Slices",
        "The policy against the reference for parts of the held-out prompts, and for sets that training never saw. "
        "Reward gain: the reward model's score after less before. Of many slices one in twenty looks different by "
        "chance.",
        kit.table(("Slice", "Prompts", "Win rate", "Reward gain", "Passes all checks, change"), rows),
        kit.paragraph(said if beside else ""),
        kit.note(f"Too few prompts for a figure: {', '.join(few)}.") if few else None,
    )


def _is_few(entry: Mapping[str, Any]) -> bool:
    return all(entry[figure] is None for figure in FIGURES)
