"""Runs side by side: rows for the terminal, one self-contained page, and the raw numbers as JSON beside it.

Runs differ only in their recipes, so what differs between recipes is part of the comparison. Two runs are compared
directly only where that is sound: the share that passes all checks, response by response on the same held-out
prompts. Scores of different reward models are on different scales and are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.config.load import dotted
from rlaif.errors import DataError
from rlaif.evaluation.artefacts import Artefacts, read_artefacts
from rlaif.jsonl import write_json
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part
from rlaif.stats import Bootstrap, Estimate, at, bonferroni, clustered_mean_difference, estimate_at
from rlaif.words import COIN, NONE, Unit, direction, figure, percent, span, tone, with_interval


class FigureRow(NamedTuple):
    """One line of the comparison: where the estimate lies in evaluation.json, and how to show it."""

    name: str
    place: str
    unit: Unit
    reference: tuple[float, str] | None = None
    """A value that a run could have without having learned anything."""
    measure: str | None = None
    """The place begins in the entry of this measure."""


NO_CHANGE, A_COIN = (0.0, "no change"), (COIN, "a coin")
FIGURES = (
    FigureRow("All checks: change", "all_checked.difference", "points", NO_CHANGE),
    FigureRow("Win rate against the reference", "policy.win_rate_vs_reference", "share", A_COIN),
    FigureRow("Win rate, judged principles alone", "policy.win_rate_vs_reference.judged_principles", "share", A_COIN),
    FigureRow("Judge: same choice in both orders", "judge.order_consistency", "share", A_COIN),
    FigureRow("Reward model, held-out accuracy", "reward_model.heldout_accuracy", "share", A_COIN),
    FigureRow("KL, nats per response", "policy.kl", "number"),
    FigureRow("Response length: change, tokens", "policy.response_tokens.difference", "signed", NO_CHANGE),
)
Table = list[tuple[str, ...]]


def compare_runs(folders: Sequence[Path], out: Path) -> Table:
    """Compare two or more runs, write `out` and the same name with .json, and return the table, header first.

    DataError for a folder without evaluation.json, for fewer than two, and for one named twice.
    """
    if out.suffix == ".json":
        raise DataError(f"{out}: this is where the raw numbers go; name the page something.html")
    runs = _read(folders)
    names = _names(runs)
    shown = [*FIGURES, *_measures(runs)]
    figures = {f.name: [_estimate(run, f) for run in runs] for f in shown}
    rows = _rows(runs, shown, figures)
    differences = recipe_differences([run.recipe for run in runs])
    direct = _direct(runs, names)
    warnings, confidence = _warnings(runs), percent(_confidence(runs))
    intervals = sum(e is not None for found in figures.values() for e in found)
    parts: kit.Parts = [
        kit.verdict("Not like for like", [], warnings) if warnings else None,
        kit.heading("Figures"),
        kit.table(("", *names), rows),
        kit.note(
            f"In brackets: {confidence} intervals, made by resampling prompts. This page shows {intervals} of them, "
            "each on its own; with so many, expect some to miss, and do not pick the run whose figure stands out. "
            "Two intervals that overlap do not show that two runs are equal, nor is it safe to subtract one row from "
            "another by eye."
        ),
        kit.grid(
            *(
                kit.dots(
                    f.name,
                    f"{f.name}, each run with its interval",
                    dict(zip(names, figures[f.name], strict=True)),
                    plots.AxisScale(f.unit, f.reference),
                    narrow=True,
                )
                for f in shown
            )
        ),
        _head_to_head(direct, runs),
        kit.heading("What differs between the recipes"),
        kit.settings(names, differences) or kit.paragraph("Nothing but the name."),
    ]
    footer = "Made by `rlaif compare`. The raw numbers lie beside this page as JSON."
    kit.write_page(out, f"{len(runs)} runs side by side", {"Runs": ", ".join(names)}, parts, footer)
    evaluated = zip(names, runs, strict=True)
    raw = {
        "runs": [{"name": n, "folder": str(r.folder), "evaluation": r.evaluation} for n, r in evaluated],
        "direct": [{"run": name, "against": names[0]} | found.model_dump() for name, found in direct.items()],
        "recipe_differences": differences,
    }
    write_json(out.with_suffix(".json"), raw)
    return [("", *names), *rows]


def _read(folders: Sequence[Path]) -> list[Artefacts]:
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise DataError("compare: give two or more different run folders")
    runs = []
    for folder in folders:
        run = read_artefacts(folder)
        if not run.evaluation:
            raise DataError(f"{folder}: no evaluation.json, so nothing to compare; run `rlaif evaluate` on it first")
        runs.append(run)
    return runs


def _names(runs: Sequence[Artefacts]) -> list[str]:
    """Recipe names, or the folders' where those are not enough to tell runs apart."""
    for names in ([run.name for run in runs], [run.folder.resolve().name for run in runs]):
        if len(set(names)) == len(runs):
            return names
    return [str(run.folder) for run in runs]


def _measures(runs: Sequence[Artefacts]) -> list[FigureRow]:
    """How much each measure changed that any of the runs has."""
    units: dict[str, Unit] = {
        entry["name"]: "points" if entry["unit"] == "share" else "signed"
        for run in runs
        for entry in run.evaluation.get("measures", ())
    }
    return [FigureRow(f"{name}: change", "difference", unit, NO_CHANGE, name) for name, unit in units.items()]


def _estimate(run: Artefacts, shown: FigureRow) -> Estimate | None:
    tree: Any = run.evaluation
    if shown.measure is not None:
        tree = next((entry for entry in tree.get("measures", ()) if entry["name"] == shown.measure), None)
    return estimate_at(tree, shown.place)


def _confidence(runs: Sequence[Artefacts]) -> float:
    return float(runs[0].evaluation.get("confidence", 0.95))


def _rows(
    runs: Sequence[Artefacts], all_shown: Sequence[FigureRow], figures: Mapping[str, Sequence[Estimate | None]]
) -> Table:
    rows: Table = [
        (f"All checks: {when}", *(percent(at(run.evaluation, f"all_checked.{when}")) for run in runs))
        for when in ("before", "after")
    ]
    for shown in all_shown:
        # Where a run has no such figure stands the reason, if evaluation.json gives one.
        why = f"{shown.place.rpartition('.')[0]}.note"
        cells = zip(runs, figures[shown.name], strict=True)
        shown_as = (with_interval(e, shown.unit) if e else str(at(r.evaluation, why) or NONE) for r, e in cells)
        rows.append((shown.name, *shown_as))
    return [row for row in rows if any(cell != NONE for cell in row[1:])]


# -------------------------------------------------------------------------------------- one run against another


def _adjusted(runs: Sequence[Artefacts]) -> float:
    """Together, the differences from the first run keep the confidence that each alone would have."""
    return bonferroni(_confidence(runs), len(runs) - 1)


def _direct(runs: Sequence[Artefacts], names: Sequence[str]) -> dict[str, Estimate]:
    """Each later run against the first: the difference in passing all checks on shared held-out responses."""
    baseline = _passes(runs[0])
    found = {}
    for run, name in zip(runs[1:], names[1:], strict=True):
        other = _passes(run)
        same_rules = _constitution(run) == _constitution(runs[0])
        shared = [key for key in other if key in baseline]
        if not same_rules or not shared:
            continue
        found[name] = clustered_mean_difference(
            [baseline[key] for key in shared],
            [other[key] for key in shared],
            [prompt_id for prompt_id, _ in shared],
            Bootstrap(confidence=_adjusted(runs)),
        )
    return found


def _passes(run: Artefacts) -> dict[tuple[str, int], float]:
    """By (prompt, index): whether the policy's response passes all checks, where any applies."""
    return {
        (row["prompt_id"], row["index"]): float(all(row["after_passes"].values()))
        for row in run.samples
        if row.get("after_passes")
    }


def _constitution(run: Artefacts) -> Any:
    return at(run.evaluation, "constitution.hash")


def _head_to_head(direct: Mapping[str, Estimate], runs: Sequence[Artefacts]) -> list[Part]:
    meaning = {"up": "passes more", "down": "passes fewer", "unclear": "cannot be told apart"}
    against = _names(runs)[0]
    rows = [
        (
            name,
            against,
            Cell(figure(e.value, "points"), tone=tone(e, 0.0)),
            span(e, "points"),
            f"{e.n:,}",
            meaning[direction(e)],
        )
        for name, e in direct.items()
    ]
    return kit.section(
        "Head to head on the checks",
        "The share of held-out responses that pass all checks, paired by prompt and sample. The intervals are widened "
        f"(Bonferroni, {100 * _adjusted(runs):.4g}% each) so that all of them together hold with "
        f"{percent(_confidence(runs))} confidence.",
        kit.table(("Run", "Against", "Difference", "Interval, points", "Responses", "So the run"), rows, left=(1, 5)),
    )


# ------------------------------------------------------------------------------------------------ like for like


def recipe_differences(recipes: Sequence[Mapping[str, Any] | None]) -> dict[str, list[str]]:
    """The resolved recipes' dotted keys that are not the same in all, with each one's value."""
    flat = [{k: str(v) for k, v in dotted(recipe).items()} if recipe else {} for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe if key not in ("name", "title"))
    values = {key: [recipe.get(key, NONE) for recipe in flat] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _warnings(runs: Sequence[Artefacts]) -> list[str]:
    """What makes two runs hard to compare."""
    found = []
    if len({_constitution(run) for run in runs}) > 1:
        found.append("The runs follow different constitutions: pass rates and win rates do not measure the same thing.")
    if len({run.setting("judge.model", str) for run in runs}) > 1:
        found.append("The runs used different judges, whose win rates are not on one scale.")
    if len({run.setting("policy.model", str) for run in runs}) > 1:
        found.append("The runs start from different policies, so each is measured against its own reference.")
    prompts = [frozenset(row["prompt_id"] for row in run.samples) for run in runs]
    if len(set(prompts)) > 1:
        found.append("The runs were not evaluated on the same held-out prompts.")
    return found
