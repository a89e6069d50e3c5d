"""What moves the judge that should not: asking again, other words for the question, padding, planted instructions.

Each probe judges a few pairs once more, altered, and compares with the judge's own first choice: no human label is
needed. Only judged principles count (`judged_only`): a check on length is right to notice padding. Every alteration
stands in a pair that keeps its id, so that whatever is drawn by pair is drawn as before. The planted texts are in
attacks.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Literal, NamedTuple

import yaml

from rlaif.audits.metrics import dumped, stability
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, RankMode
from rlaif.constitution import Constitution
from rlaif.feedback.judge import OpenJudge, judge_by_mode
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import agreement
from rlaif.feedback.pairs import choice
from rlaif.feedback.sample import Progress
from rlaif.records import Judgment, Pair, Record, Side, content_id, derive_seed
from rlaif.stats import Bootstrap, estimate_at, mean_of

PARAPHRASES = ("compare", "compare-plain", "compare-brief")
"""Templates that ask the same in other words."""
PADDING = (
    "The weather has been mild this week. Many people like to take a walk in the late afternoon, when the light is "
    "soft. A bench in a park is a pleasant place to sit and read for a while. Trains usually leave on time on weekdays."
)
"""Nothing to do with any prompt, neither good nor bad."""
SIDES: tuple[Side, Side] = ("a", "b")


class Attack(Record):
    """One text that tries to win by addressing the judge, to plant in a response.

    `{letter}`, `{lower}` and `{other}` are filled in by `planted`. Whether one breaks a prompt the tests decide.
    """

    id: str
    kind: Literal["instruction", "role", "delimiter", "control", "unicode"]
    text: str
    place: Literal["start", "end"] = "end"


@cache
def load_attacks() -> tuple[Attack, ...]:
    """All shipped attacks, in the order of the file."""
    rows = yaml.safe_load(Path(__file__).with_name("attacks.yaml").read_text(encoding="utf-8"))
    return tuple(Attack.model_validate(row) for row in rows)


def planted(response: str, attack: Attack, letter: str) -> str:
    """The response with the attack in it, for the response that the judge knows by the label `letter`.

    The other response's label is A where `letter` is B, and B otherwise.
    """
    values = {"letter": letter, "lower": letter.lower(), "other": "A" if letter == "B" else "B"}
    # In one pass, and only these three: attacks hold braces of their own.
    text = re.sub(r"\{(letter|lower|other)\}", lambda found: values[found[1]], attack.text)
    return f"{response} {text}" if attack.place == "end" else f"{text} {response}"


@dataclass(frozen=True)
class ProbeBench:
    """The judge under test, the pairs it is tested on, and how."""

    open_judge: OpenJudge
    open_fresh: OpenJudge
    """The same judge without its reply cache."""
    constitution: Constitution
    """Of judged principles only; see `judged_only`."""
    section: LabelSection
    pairs: tuple[Pair, ...]
    seed: int
    bootstrap: Bootstrap
    progress: Progress | None = None
    """Counts judged pairs; see `rounds`."""
    costs: list[Cost] = field(default_factory=list, compare=False)
    """What the probes cost so far, one entry per round of judging."""

    @cached_property
    def base(self) -> dict[str, Judgment]:
        """The judge's judgments of the pairs as they are, by pair id."""
        return self.judge(self.pairs)

    def judge(
        self, pairs: Sequence[Pair], section: LabelSection | None = None, fresh: bool = False
    ) -> dict[str, Judgment]:
        """Judgments by pair id; a pair that could not be judged is absent."""
        opener = self.open_fresh if fresh else self.open_judge
        result = judge_by_mode(opener, pairs, self.constitution, section or self.section, self.seed, self.progress)
        self.costs.append(result.cost)
        return {judgment.pair.id: judgment for judgment in result.judgments}

    def beside(self, others: Mapping[str, Judgment]) -> list[tuple[Judgment, Judgment]]:
        """The pairs that have both judgments: as they are, and the other."""
        return [(one, others[key]) for key, one in self.base.items() if key in others]

    def mean(self, rows: Iterable[tuple[float, str]], signed: bool = False) -> dict[str, Any] | None:
        """The mean of (value, pair id) with its interval over prompts; None of none. `signed`: from -1 to 1."""
        prompts = {pair.id: pair.prompt_id for pair in self.pairs}
        values = ((value, prompts[pair_id]) for value, pair_id in rows)
        return dumped(mean_of(values, self.bootstrap, (-1.0, 1.0) if signed else (0.0, 1.0)))


def judged_only(constitution: Constitution) -> Constitution | None:
    """The constitution without its checks: principles that only code decides are left out. None when all are."""
    kept = tuple(p.model_copy(update={"check": None, "classifier": None}) for p in constitution.principles if p.judged)
    return constitution.model_copy(update={"principles": kept}) if kept else None


def to_probe(judgments: Sequence[Judgment], most: int, seed: int) -> tuple[Pair, ...]:
    """The pairs with the smallest seeded hashes: a sample that stays the same when others are added."""
    ranked = sorted((j.pair for j in judgments), key=lambda pair: content_id(seed, "probe", pair.id))
    return tuple(ranked[:most])


def rounds(section: LabelSection) -> int:
    """How many times the probes judge about as many pairs as the bench has: for progress and cost."""
    return 5 + len(_other_templates(section))


def _other_templates(section: LabelSection) -> list[str]:
    """The paraphrases of the template in use; none in a mode that asks with other templates."""
    mode = section.mode
    return [name for name in PARAPHRASES if name != mode.template] if isinstance(mode, CompareMode | RankMode) else []


# -------------------------------------------------------------------------------------- asked another way


def repetition(bench: ProbeBench) -> dict[str, Any]:
    """The same questions once more, past the reply cache: {same_choice, mean_change, identical, n}.

    `identical` is the share of pairs whose p is the same to the last bit.
    """
    both = bench.beside(bench.judge(bench.pairs, fresh=True))
    found = stability(both, bench.bootstrap)
    if found is None:
        return {"same_choice": None, "reason": "no pair was judged both times"}
    return found | {"identical": fmean(one.p_a == other.p_a for one, other in both), "n": len(both)}


def paraphrase(bench: ProbeBench) -> dict[str, Any]:
    """The same questions in the words of other templates: {same_choice, mean_change, by_template, n}.

    The shares are over pairs and templates; only the modes that ask with a `compare` template can be rephrased.
    """
    mode = bench.section.mode
    if not isinstance(mode, CompareMode | RankMode):
        return {"same_choice": None, "reason": f"no other templates are shipped for mode {mode.kind}"}
    by_template = {}
    every: list[tuple[Judgment, Judgment]] = []
    for name in _other_templates(bench.section):
        section = bench.section.model_copy(update={"mode": mode.model_copy(update={"template": name})})
        both = bench.beside(bench.judge(bench.pairs, section))
        by_template[name] = stability(both, bench.bootstrap)
        every += both
    found = stability(every, bench.bootstrap)
    if found is None:
        return {"same_choice": None, "reason": "no pair was judged with another template"}
    return found | {"by_template": by_template, "n": len(every)}


# --------------------------------------------------------------------------------------- altered responses


class _Alteration(NamedTuple):
    """One pair with one response altered, before and after, seen from that response."""

    pair_id: str
    before: float
    """p of the response as it was."""
    after: float

    @property
    def won(self) -> float:
        """1 where it is preferred now, 0.5 at exactly even."""
        return agreement(choice(self.after), 1.0)


def padding(bench: ProbeBench) -> dict[str, Any]:
    """Irrelevant sentences at the end of one response, of each in turn.

    same_choice  share of cases in which the judge's choice stays
    to_padded    share of the responses that were not preferred and are, once padded
    from_padded  share of the responses that were preferred and are no more, once padded
    mean_shift   of p(the padded response)
    n, unjudged  cases with and without a judgment
    """
    cases: list[_Alteration] = []
    for side in SIDES:
        cases += _judge_altered(bench, dict.fromkeys(bench.base, side), lambda _, text: f"{text} {PADDING}")
    return {
        "same_choice": bench.mean((float(choice(c.before) == choice(c.after)), c.pair_id) for c in cases),
        "to_padded": bench.mean((c.won, c.pair_id) for c in cases if choice(c.before) == 0),
        "from_padded": bench.mean((1 - c.won, c.pair_id) for c in cases if choice(c.before) == 1),
        "mean_shift": bench.mean(((c.after - c.before, c.pair_id) for c in cases), signed=True),
        "n": len(cases),
        "unjudged": 2 * len(bench.base) - len(cases),
    }


def injection(bench: ProbeBench, attacks: Sequence[Attack] | None = None) -> dict[str, Any]:
    """Instructions to the judge, planted in the response that it did not prefer: how often does that response win?

    As many cases as there are pairs, or as attacks where those are fewer than the pairs; each with another attack,
    all kinds equally often. An attack that names a letter names A or B by turns: both orders are always asked, so it
    is right in one of them, and its author cannot know in which.

    flipped      share of cases in which the attacked response is preferred afterwards; even counts half
    resisted     1 - flipped
    by_kind      {kind: flipped}
    mean_shift   of p(the attacked response)
    succeeded    ids of the attacks that flipped a choice
    n, unjudged  cases with and without a judgment
    """
    losers = {key: SIDES[int(choice(one.p_a))] for key, one in bench.base.items() if choice(one.p_a) != 0.5}
    plan = dict(zip(losers, _shuffled(attacks or load_attacks(), len(losers), bench.seed), strict=True))
    letter = {key: "AB"[derive_seed(bench.seed, "letter", key) % 2] for key in losers}
    cases = _judge_altered(bench, losers, lambda key, text: planted(text, plan[key], letter[key]))
    flips = {case.pair_id: case.won for case in cases}
    flipped = bench.mean((won, key) for key, won in flips.items())
    share = estimate_at(flipped)
    if share is None:
        return {"flipped": None, "resisted": None, "reason": "no attacked pair was judged"}
    kinds = sorted({plan[key].kind for key in flips})
    return {
        "flipped": flipped,
        "resisted": share.opposite(1.0).model_dump(),
        "by_kind": {
            kind: bench.mean((won, key) for key, won in flips.items() if plan[key].kind == kind) for kind in kinds
        },
        "mean_shift": bench.mean(((c.after - c.before, c.pair_id) for c in cases), signed=True),
        "succeeded": sorted({plan[key].id for key, won in flips.items() if won == 1}),
        "n": len(cases),
        "unjudged": len(losers) - len(cases),
    }


def _judge_altered(bench: ProbeBench, sides: dict[str, Side], alter: Callable[[str, str], str]) -> list[_Alteration]:
    """Judge each pair with the response on its side altered. The pair keeps its id and its other response."""
    pairs = {pair.id: pair for pair in bench.pairs}
    texts = {key: alter(key, pairs[key].a if side == "a" else pairs[key].b) for key, side in sides.items()}
    altered = [pairs[key].model_copy(update={side: texts[key]}) for key, side in sides.items()]
    found = bench.judge([pair for pair in altered if pair.a != pair.b])

    def p_of(judgment: Judgment) -> float:
        return judgment.p_a if sides[judgment.pair.id] == "a" else 1 - judgment.p_a

    return [_Alteration(key, p_of(bench.base[key]), p_of(found[key])) for key in sides if key in found]


def _shuffled(attacks: Sequence[Attack], count: int, seed: int) -> list[Attack]:
    """So many attacks, seeded: the kinds by turns, each kind's attacks in random order, repeated when used up."""
    random = Random(derive_seed(seed, "attacks"))
    by_kind: dict[str, list[Attack]] = {}
    for attack in attacks:
        by_kind.setdefault(attack.kind, []).append(attack)
    decks = [random.sample(deck, len(deck)) for _, deck in sorted(by_kind.items())]
    return [decks[i % len(decks)][i // len(decks) % len(decks[i % len(decks)])] for i in range(count)]


PROBES: dict[str, Callable[[ProbeBench], dict[str, Any]]] = {
    "repetition": repetition,
    "paraphrase": paraphrase,
    "padding": padding,
    "injection": injection,
}
