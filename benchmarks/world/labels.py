"""Who labels in the synthetic world: judges whose faults are known, and SIMULATED people. Real records throughout.

A judge is a random-utility model: in every response it sees a merit, made of what the response is worth to it and a
whim about that very text, and it compares merits. With whims of a Gumbel law the choice follows Bradley and Terry's
model exactly (McFadden 1974): that is the judge of the contest, who is right as often as the gold preference says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import log_expit

from benchmarks.world.texts import FALSEHOODS, VALUES, WORDS, Array, World, gold_preference
from rlaif.feedback.annotators.simulate import crew_of, simulate
from rlaif.feedback.verdict import judged
from rlaif.records import Judgment, Pair, Side, Verdict

PEOPLE = crew_of("careful:5:0.25")
"""They choose by the gold preference and then say the opposite in 25 % (AlpacaFarm's training pool, 2305.14387)."""


class Traits(NamedTuple):
    """How a judge sees: merit = scale * (u without the words it is blind to) + length_bias * words + whim."""

    scale: float = 1.0
    length_bias: float = 0.0
    """Log-odds for every word more."""
    blind_to: tuple[str, ...] = ()
    """Words whose value it does not see."""
    position: float = 0.0
    """Log-odds for what is shown first. Judging in both orders cancels it."""
    whim: float = 1.0
    """Scale of the Gumbel law."""


UNBIASED = Traits(position=1.0)
BIASED = Traits(position=1.0, length_bias=0.4, blind_to=FALSEHOODS)
CONTEST = Traits()
"""A different judge, without bias: its choices have the gold preference as their probabilities."""


class Judge(NamedTuple):
    """One who labels the responses of a world."""

    name: str
    merit: Array
    """(N, K)"""
    position: float

    def label(self, world: World, at: Sequence[int], pairs: Sequence[Pair]) -> list[Judgment]:
        """Every pair, asked in both orders and averaged as real judges are. `at`: the prompts that pairs may have."""
        merit = {
            (response.prompt_id, response.text): float(self.merit[n, response.index])
            for n in at
            for response in world.responses(n)
        }
        return [self._judgment(pair, merit[pair.prompt_id, pair.a] - merit[pair.prompt_id, pair.b]) for pair in pairs]

    def _judgment(self, pair: Pair, lead: float) -> Judgment:
        said = judged("better", self._verdict("a", lead), self._verdict("b", -lead))
        return Judgment(pair=pair, source="ai", annotator=self.name, p_a=said.p_a, principles=(said,))

    def _verdict(self, first: Side, lead: float) -> Verdict:
        """`lead`: log-odds for the one that is shown first, but for its place."""
        shown = lead + self.position
        return Verdict(first=first, logprob_first=float(log_expit(shown)), logprob_second=float(log_expit(-shown)))


def judge_of(world: World, traits: Traits, name: str, seed: int) -> Judge:
    """A judge with these traits; the seed gives its whims."""
    seen = np.where([word in traits.blind_to for word in WORDS], 0.0, VALUES)
    whims = np.random.default_rng([world.seed, seed]).gumbel(scale=traits.whim, size=world.counts.shape[:2])
    merit = traits.scale * (world.counts @ seen) + traits.length_bias * world.lengths + whims
    return Judge(f"simulated:{name}", merit, traits.position)


def people(pairs: Sequence[Pair], seed: int) -> list[Judgment]:
    """One simulated person's label of each pair."""
    truth = [Judgment(pair=pair, source="ai", annotator="gold", p_a=gold_preference(pair)) for pair in pairs]
    return simulate(truth, PEOPLE, 1, seed)
