"""What a constitution's classifiers and checks say of rows of any file; limits and temperature fitted on labelled ones.

A row has a `prompt` (a text or turns; it may be missing) and the response under the first of RESPONSE that it has: so
responses.jsonl, preferences.jsonl and demonstrations.jsonl are read as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from rlaif.constitution import Constitution, Principle, read_ahead
from rlaif.errors import ConfigError, DataError, did_you_mean, shown
from rlaif.formats.rows import Unusable, message_list, prompt_value
from rlaif.jsonl import read_items
from rlaif.records import Messages, content_id, plain
from rlaif.signals import measured
from rlaif.signals.kinds import Model
from rlaif.signals.kinds import Signal as AnySignal
from rlaif.stats import Estimate, clustered_mean
from rlaif.words import NONE, percent

RESPONSE = ("response", "text", "completion", "chosen")
FEW = 10
"""Labelled rows of each kind, in either half: with fewer nothing is fitted."""
WARM = (-3.0, 3.0)
"""Of the temperature's logarithm."""


class Answer(NamedTuple):
    """What is looked at of one row."""

    row: dict[str, Any]
    """As it stands in the file."""
    prompt: Messages
    text: str
    tags: tuple[str, ...]
    place: str


class Found(NamedTuple):
    """What a principle says of the answers that it applies to."""

    principle: Principle
    numbers: list[float]
    passes: dict[int, bool | None]
    """By the answer's place; None where it cannot tell."""


class Calibrated(NamedTuple):
    """Limits and temperature fitted on one half of the prompts, and the accuracy on the other half, before and after:
    the mean over those that should pass and those that should not."""

    signal: AnySignal
    before: Estimate
    after: Estimate
    fitted_on: int
    undecided: int


def read_answers(path: Path) -> list[Answer]:
    """The rows of a file. DataError, with its place, for one without a response."""
    found = []
    for place, row in read_items(path):
        key = next((key for key in RESPONSE if row.get(key) is not None), None)
        if key is None:
            raise DataError(f"{place}: no {', '.join(RESPONSE[:-1])} or {RESPONSE[-1]} in it")
        try:
            said = row[key] if isinstance(row[key], str) else message_list(row[key], place, key)
            if not isinstance(said, str) and (not said or said[-1].role != "assistant"):
                raise Unusable(f"{key} does not end with an assistant turn")
            text, before = (said, ()) if isinstance(said, str) else (said[-1].content, said[:-1])
            prompt = prompt_value(row["prompt"], place, "prompt") if row.get("prompt") else before
        except Unusable as error:
            raise DataError(f"{place}: {error} {error.detail}".strip()) from None
        tags = row.get("tags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise DataError(f"{place}: tags: must be a list of texts (got {shown(tags)})")
        found.append(Answer(row, prompt, text, tuple(tags), place))
    if not found:
        raise DataError(f"{path}: no rows")
    return found


def measure(constitution: Constitution, answers: Sequence[Answer]) -> list[Found]:
    """What each principle that code decides says of the answers. ConfigError where there is none."""
    coded = [p for p in constitution.principles if p.coded]
    if not coded:
        raise ConfigError(f"constitution {constitution.id!r}: no principle has a check or a classifier")
    found = []
    read_ahead(coded, [(a.text, a.prompt, a.tags) for a in answers])
    for p in coded:
        here = {place: a for place, a in enumerate(answers) if p.applies_to(a.tags)}
        numbers = [measured(p.classifier, a.text, a.prompt) for a in here.values()] if p.classifier else []
        passes = {place: p.passed(a.text, a.prompt) for place, a in here.items()}
        found.append(Found(p, [number for number in numbers if number is not None], passes))
    return found


HEAD = ("principle", "decided by", "rows", "pass", "mean", "least", "most", "not decided")


def cells(found: Found) -> tuple[str, ...]:
    """A row under HEAD, of the rows to which the principle applies."""
    passes, numbers = [one for one in found.passes.values() if one is not None], found.numbers
    one = found.principle.classifier or found.principle.check
    assert one is not None, "code decides it"
    return (
        found.principle.id,
        one.kind,
        f"{len(found.passes):,}",
        percent(sum(passes) / len(passes)) if passes else NONE,
        *([f"{fmean(numbers):.3g}", f"{min(numbers):.3g}", f"{max(numbers):.3g}"] if numbers else [NONE] * 3),
        f"{len(found.passes) - len(passes):,}",
    )


def kept(answers: Sequence[Answer], found: Sequence[Found]) -> tuple[list[dict[str, Any]], int, int]:
    """The rows that pass every principle that applies; how many fail one; how many fail none and are not decided."""
    rows, failed, undecided = [], 0, 0
    for place, answer in enumerate(answers):
        said = [one.passes[place] for one in found if place in one.passes]
        if False in said:
            failed += 1
        elif None in said:
            undecided += 1
        else:
            rows.append(answer.row)
    return rows, failed, undecided


def calibrate(constitution: Constitution, name: str, answers: Sequence[Answer]) -> Calibrated:
    """The principle's classifier with the limit, and the temperature where it has one, that tell apart best which rows
    should pass: those with `passes: true` and `passes: false`.

    ConfigError for a principle without a classifier or with two limits, DataError for too few rows.
    """
    by_id = {p.id: p.classifier for p in constitution.principles if p.classifier}
    signal = by_id.get(name)
    if signal is None:
        hint = did_you_mean(name, by_id) if by_id else ""
        raise ConfigError(f"constitution {constitution.id!r}: no principle {name!r} with a classifier{hint}")
    if signal.at_least is not None and signal.at_most is not None:
        raise ConfigError(f"{name}: it has both at_least and at_most; one limit is fitted, so leave one out")
    for answer in answers:
        if not isinstance(answer.row.get("passes"), bool):
            raise DataError(f"{answer.place}: passes must be true or false (got {shown(answer.row.get('passes'))})")
    signal.read_ahead((a.text, a.prompt) for a in answers)
    told = [a for a in answers if measured(signal, a.text, a.prompt) is not None]
    halves = [[a for a in told if int(_cluster(a), 16) % 2 == side] for side in (0, 1)]
    for half in halves:
        count = min(sum(a.row["passes"] for a in half), sum(not a.row["passes"] for a in half))
        if count < FEW:
            raise DataError(
                f"calibrate: {count} rows of one kind in a half of the prompts; at least {FEW} of each kind (passes: "
                "true, passes: false) are needed there, about twice as many in all"
            )
    sign = 1 if signal.at_most is None else -1
    fitted = _tempered(signal, halves[0], sign)
    limit = _limit(fitted, halves[0], sign)
    fitted = fitted.model_copy(update={"at_least" if sign == 1 else "at_most": limit})
    before, after = (_accuracy(one, halves[1]) for one in (signal, fitted))
    return Calibrated(fitted, before, after, len(halves[0]), len(answers) - len(told))


def _cluster(answer: Answer) -> str:
    """Answers to one prompt stay together."""
    return content_id(plain(answer.prompt) or answer.text)


def _tempered(signal: AnySignal, half: Sequence[Answer], sign: int) -> AnySignal:
    """With the temperature at which the rows are likeliest (arXiv 1706.04599). Only of a single label that counts 1:
    its number is a probability."""
    if not isinstance(signal, Model) or list(signal.labels.values()) != [1]:
        return signal
    wanted = np.array([a.row["passes"] == (sign == 1) for a in half])

    def surprise(log_temperature: float) -> float:
        one = signal.model_copy(update={"temperature": math.exp(log_temperature)})
        p = np.clip(np.array([one.number(a.text, a.prompt) for a in half], np.float64), 1e-9, 1 - 1e-9)
        return float(-np.log(np.where(wanted, p, 1 - p)).mean())

    best = minimize_scalar(surprise, bounds=WARM, method="bounded").x
    return signal.model_copy(update={"temperature": round(math.exp(best), 4)})


def _limit(signal: AnySignal, half: Sequence[Answer], sign: int) -> float:
    """Half way between two numbers that come next to each other, where the mean of both kinds' accuracy is best."""
    numbers = np.array([_number(signal, a) for a in half])
    wanted = np.array([a.row["passes"] for a in half])
    values = np.unique(numbers)
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    passes = sign * numbers >= sign * cuts[:, None]
    right = (passes & wanted).sum(1) / wanted.sum() + (~passes & ~wanted).sum(1) / (~wanted).sum()
    return float(f"{cuts[int(right.argmax())]:.6g}")


def _number(signal: AnySignal, answer: Answer) -> float:
    found = measured(signal, answer.text, answer.prompt)
    assert found is not None, "only answers with a number come here"
    return found


def _accuracy(signal: AnySignal, half: Sequence[Answer]) -> Estimate:
    """Either kind counts as much as the other, however many rows it has."""
    good = sum(a.row["passes"] for a in half)
    weights = {True: len(half) / 2 / good, False: len(half) / 2 / (len(half) - good)}
    right = [weights[a.row["passes"]] * (signal.passes(_number(signal, a)) == a.row["passes"]) for a in half]
    found = clustered_mean(right, [_cluster(a) for a in half], bounds=None)
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return Estimate(value=min(found.value, 1.0), low=low, high=high, n=found.n)
