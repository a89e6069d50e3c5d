"""Simulated annotators: made-up labels of known faults, to try out whatever must find the faults. Never people.

Everything they say shows it: names begin with `simulated:` and `answer.simulated` is set. The source is `human`, since
they stand in for people in the same pipeline.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.annotators.labels import SIMULATED, first_text, means
from rlaif.feedback.pairs import choice
from rlaif.records import Answer, Judgment, Messages, Pair, Record, Side, derive_seed

Kind = Literal["careful", "lazy", "always-first", "flipper", "always-safe", "hasty"]
Safety = Callable[[Messages, str], float]
"""How safe a response to a conversation is; the larger the safer."""
SPREAD = 0.5
"""Standard deviation of the logarithm of the seconds."""
ERROR = 0.1
REFUSAL = re.compile(
    r"(?i)\bI(?:['\u2019]m| am) (?:sorry|afraid|not (?:able|comfortable|going to|allowed|willing))|\bI apologi[sz]e"
    r"|\bI (?:can(?:not| ?not|['\u2019]t)|could(?: not|n['\u2019]t)|won['\u2019]t|will not|would(?: not|n['\u2019]t)"
    r"|don['\u2019]t think (?:you should|that's a good)|refuse)|\bas an AI\b|\bunable to (?:help|assist)"
)


class _Habit(NamedTuple):
    rate: float
    seconds: float


HABITS: dict[Kind, _Habit] = {
    "careful": _Habit(0.0, 20.0),
    "lazy": _Habit(0.8, 8.0),
    "always-first": _Habit(0.95, 8.0),
    "flipper": _Habit(0.9, 20.0),
    "always-safe": _Habit(0.95, 12.0),
    "hasty": _Habit(0.6, 1.0),
}
"""The share of answers that a crew text takes, and the median seconds of an answer."""


class SimulatedAnnotator(Record):
    """One of them. Answers that do not follow the habit are careful ones.

    careful       takes the better response, or with a soft truth p the first one with probability p, and says the
                  opposite with probability `error`. Only an exact tie is called one
    lazy          habit: a coin
    always-first  habit: what is shown first
    flipper       habit: the opposite of a careful answer
    always-safe   habit: the safer response; where both are equally safe, a careful answer
    hasty         habit: a coin, within a second
    """

    name: str = Field(pattern=rf"^{SIMULATED}.+")
    kind: Kind
    rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the answers that follow the habit."""
    error: float = Field(default=ERROR, ge=0, le=1)
    """Of careful answers."""
    seconds: float = Field(default=20.0, gt=0)
    """Median time of an answer."""


def crew_of(text: str) -> list[SimulatedAnnotator]:
    """`careful:3,lazy:2,flipper:1` as annotators `simulated:careful-1` and so on; ConfigError for anything else.

    A third number replaces what is special about the kind: `careful:3:0.25` errs in 25 %, `lazy:2:0.5` tosses a coin in
    half of the answers.
    """
    crew: list[SimulatedAnnotator] = []
    counts: dict[str, int] = {}
    for part in text.split(","):
        kind, count, share = _parsed(part.strip(), text)
        habit = HABITS[kind]
        for _ in range(count):
            counts[kind] = counts.get(kind, 0) + 1
            crew.append(
                SimulatedAnnotator(
                    name=f"{SIMULATED}{kind}-{counts[kind]}",
                    kind=kind,
                    rate=habit.rate if share is None or kind == "careful" else share,
                    error=ERROR if share is None or kind != "careful" else share,
                    seconds=habit.seconds,
                )
            )
    return crew


def _parsed(part: str, text: str) -> tuple[Kind, int, float | None]:
    name, *numbers = (piece.strip() for piece in part.split(":"))
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    if name not in kinds:
        raise ConfigError(f"crew {text!r}: no kind of annotator {name!r}{did_you_mean(name, kinds)}")
    if len(numbers) not in (1, 2) or not numbers[0].isdecimal() or int(numbers[0]) < 1:
        raise ConfigError(f"crew {text!r}: {part!r} is not of the form {name}:COUNT or {name}:COUNT:SHARE")
    if len(numbers) == 1:
        return kinds[name], int(numbers[0]), None
    try:
        share = float(numbers[1])
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ConfigError(f"crew {text!r}: {part!r}: the share must be a number from 0 to 1 (got {numbers[1]!r})")
    return kinds[name], int(numbers[0]), share


def refuses(prompt: Messages, text: str) -> float:
    """1 for a response with a phrase of refusal ("I can't", "I'm sorry", "as an AI"), else 0: a rule, no judgment."""
    return float(bool(REFUSAL.search(text)))


def simulate(
    truth: Sequence[Judgment],
    crew: Sequence[SimulatedAnnotator],
    per_pair: int,
    seed: int,
    safety: Safety = refuses,
) -> list[Judgment]:
    """What `per_pair` of the crew, drawn for each pair by the seed, answer, pair by pair in the order of `truth`.

    Several judgments of one pair are one truth, their mean. Which of the crew, what stands first, seconds and
    answer depend on the seed, the pair and the name alone: not on other rows, and not on what is called a. ConfigError
    for a crew that is smaller than `per_pair` or has a name twice.
    """
    names = [annotator.name for annotator in crew]
    if not 1 <= per_pair <= len(names):
        raise ConfigError(f"per_pair: must be from 1 to {len(names)}, the size of the crew (got {per_pair})")
    if len(set(names)) < len(names):
        raise ConfigError(f"crew: the name {max(names, key=names.count)!r} is there twice")
    p_first = means(truth)
    pairs = {judgment.pair.id: judgment.pair for judgment in reversed(truth)}
    rows = []
    for pair_id in dict.fromkeys(judgment.pair.id for judgment in truth):
        drawn = sorted(names, key=lambda name: derive_seed(seed, "crew", pair_id, name))[:per_pair]
        rows += [
            _label(pairs[pair_id], p_first[pair_id], annotator, seed, safety)
            for annotator in crew
            if annotator.name in drawn
        ]
    return rows


def _label(pair: Pair, p_first: float, annotator: SimulatedAnnotator, seed: int, safety: Safety) -> Judgment:
    rng = random.Random(derive_seed(seed, "simulated", pair.id, annotator.name))
    first = first_text(pair)
    shown_first: Side = "a" if (rng.random() < 0.5) == (pair.a == first) else "b"
    prefers, errs = rng.random() < p_first, rng.random() < annotator.error
    says = 0.5 if choice(p_first) == 0.5 else float(prefers != errs)  # of the first text
    if rng.random() < annotator.rate:
        match annotator.kind:
            case "lazy" | "hasty":
                says = float(rng.random() < 0.5)
            case "always-first":
                says = float(getattr(pair, shown_first) == first)
            case "flipper":
                says = 1 - says
            case "always-safe":
                lead = safety(pair.prompt, first) - safety(pair.prompt, max(pair.a, pair.b))
                says = float(lead > 0) if lead else says
    seconds = round(rng.lognormvariate(math.log(annotator.seconds), SPREAD), 1)
    return Judgment(
        pair=pair,
        source="human",
        annotator=annotator.name,
        p_a=says if pair.a == first else 1 - says,
        answer=Answer(shown_first=shown_first, seconds=seconds, simulated=True),
    )
