"""The history of all rounds as one page, rounds.html, and the link to the round that counts, FOLDER/kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rlaif.config import Recipe
from rlaif.errors import ConfigError
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.gates.decide import Decision, Outcome
from rlaif.jsonl import read_json
from rlaif.pages import kit, plots
from rlaif.pages.kit import Cell, Part
from rlaif.run_folder import Run
from rlaif.stats import estimate_at
from rlaif.words import COIN, counted, duration, figure, percent, tone


def publish(recipe: Recipe, folder: Path, decisions: Sequence[Decision]) -> None:
    """Write the page and point FOLDER/kept to the last kept round; no link where none was kept."""
    _write(recipe, folder, decisions)
    link = folder / "kept"
    if link.exists() and not link.is_symlink():
        raise ConfigError(f"{link}: in the place of the link to the last kept round; move it away")
    kept = [decision.round for decision in decisions if decision.kept]
    if not kept:
        link.unlink(missing_ok=True)
        return
    temporary = folder / ".kept.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"round-{kept[-1]}", target_is_directory=True)
    os.replace(temporary, link)


def _write(recipe: Recipe, folder: Path, decisions: Sequence[Decision]) -> None:
    section = recipe.iterate
    assert section
    facts = {
        "Recipe": recipe.name,
        "Policy": recipe.policy.model,
        "Judge": "the policy itself" if section.self_reward else recipe.judge.model,
        "Intervals": f"{percent(recipe.evaluate.confidence)}, by prompt",
    }
    reading = (
        "Each round against the last kept one, answer by answer to the same held-out prompts. Green: surely better. "
        "Red: it refused the round. Grey: neither. What a round wrote is in report.html of its folder."
    )
    rules = []
    for gate in decisions[-1].gates:
        rule = section.gates[gate.name]
        end = "lower" if rule.strict else "upper"
        rules.append((gate.name, gate.what, f"the interval's {end} end is below {figure(-rule.tolerance, 'points')}"))
    parts: kit.Parts = [
        _verdict(decisions),
        kit.section("What the gates saw", reading, kit.grid(*(_plot(name, decisions) for name in section.gates))),
        kit.table(("Gate", "What is measured", "Refused if"), rules, left=(1, 2), kind="wide"),
        _rounds(folder, decisions),
        kit.provenance({"Gates": section.model_dump(mode="json")}),
    ]
    footer = "Made by `rlaif iterate` from the folders of the rounds."
    kit.write_page(folder / "rounds.html", recipe.title or recipe.name, facts, parts, footer)


def _verdict(decisions: Sequence[Decision]) -> Part:
    kept = [decision.round for decision in decisions if decision.kept]
    heading = f"{len(kept)} of {counted(len(decisions), 'round')} kept"
    use = f"Use round {kept[-1]}: the folder kept beside this page." if kept else "The policy stays what it was."
    refused, alone = [one for one in decisions if one.reason], [one for one in decisions if one.unmatched]
    said = [f"Round {one.round} was refused: {one.reason}, against {_named(one.against)}." for one in refused]
    cautions = [f"Round {one.round}: {counted(one.unmatched, 'answer')} without a partner." for one in alone]
    missing = [(one.round, gate) for one in decisions for gate in one.gates if gate.missing]
    cautions += [f"Round {n}, {gate.name}: {gate.missing} without a value are left out." for n, gate in missing]
    return kit.verdict(heading, [use, *said], cautions, "better" if kept else "worse")


def _named(round: int) -> str:
    return f"round {round}" if round else "the start"


def _plot(name: str, decisions: Sequence[Decision]) -> Part:
    """One gate, a row per round."""
    rows = {}
    for one in decisions:
        gate = {gate.name: gate for gate in one.gates}[name]
        color = {"up": plots.GREEN, "down": plots.RED, "": plots.GREY}[_tone(gate)]
        label = f"round {one.round}, {'kept' if one.kept else 'refused'}"
        rows[label] = plots.Line([plots.Mark(gate.difference, color, hollow=not one.kept)])
    scale = plots.AxisScale("points", reference=(0.0, "as before"))
    alt = f"{name}: each round's change in points against the last kept one"
    return kit.picture(plots.forest(f"{name}, points", rows, scale, narrow=True), alt)


def _tone(gate: Outcome) -> str:
    return "down" if gate.fell else tone(gate.difference, 0.0).replace("down", "")


def _figures(gate: Outcome) -> Cell:
    levels = f"; {percent(gate.before)} to {percent(gate.after)}"
    return kit.cell(gate.difference, "points", more=levels, bare=True)._replace(tone=_tone(gate))


def _rounds(folder: Path, decisions: Sequence[Decision]) -> list[Part]:
    rows: list[kit.Row] = []
    for one in decisions:
        run = Run(folder / f"round-{one.round}")
        marks, evaluation = run.read_manifest()["stages"].values(), read_json(run.evaluation, EVALUATION)
        calls, seconds = (sum(mark.get(key, 0) for mark in marks) for key in ("judge_calls", "seconds"))
        tokens = sum(mark.get(key, 0) for mark in marks for key in ("prompt_tokens", "completion_tokens"))
        outcome = Cell("kept" if one.kept else "refused", tone="up" if one.kept else "down")
        gates = [_figures(gate) for gate in one.gates]
        rate = kit.cell(estimate_at(evaluation, "policy.win_rate_vs_reference"), "share", COIN)
        kl = kit.cell(estimate_at(evaluation, "policy.kl"), "number")
        cost = (f"{calls + one.judge_calls:,}", f"{tokens + one.tokens:,}", duration(seconds))
        rows.append((str(one.round), _named(one.against), outcome, *gates, rate, kl, *cost))
    names = [gate.name for gate in decisions[-1].gates]
    head = ("Round", "From", "Outcome", *names, "Win rate, own judge", "KL", "Judge calls", "Tokens", "Time")
    reading = (
        "Gates: points gained or lost against the round in the second column, the interval, and what the share was "
        "and is. Win rate, by the judge that training "
        "listened to, and KL, in nats, are against what all began from. Calls and tokens count the gates' too; time "
        "is that of the round's stages."
    )
    return kit.section("The rounds", reading, kit.table(head, rows, left=(1, 2), kind="dense"))
