"""The judge's judgments beside the human labels of the same pairs: the input of every measure of a judge.

Nothing is measured here. Next: `calibration.py` and `mix.py`, and `audit/metrics.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, grouped


class LabelledJudgment(NamedTuple):
    """One judged pair with its human label."""

    judgment: Judgment
    p_human: float
    """P that response a, as the judgment holds the pair, is better: 1 or 0, and 0.5 for a human tie."""

    @property
    def prompt_id(self) -> str:
        """The cluster of every interval."""
        return self.judgment.pair.prompt_id

    @property
    def tags(self) -> tuple[str, ...]:
        """Of the prompt."""
        return self.judgment.pair.tags

    @property
    def longer(self) -> float:
        """1 where a has more words, 0 where b has, 0.5 where they have as many."""
        return choice(len(self.judgment.pair.a.split()), len(self.judgment.pair.b.split()))

    @property
    def right(self) -> float:
        """1 where the judge's choice is the human's, 0 where it is the other response, 0.5 where it is neither."""
        return agreement(choice(self.judgment.p_a), self.p_human)

    @property
    def tie(self) -> bool:
        """Whether the human had no preference."""
        return self.p_human == 0.5


def agreement(chosen: float, p_human: float) -> float:
    """1 where the choice (1, 0 or 0.5) is the human's, 0 where it is the other one, 0.5 where it is neither."""
    return 0.5 if chosen == 0.5 else float(chosen == p_human)


def match(judgments: Iterable[Judgment], gold: Sequence[Judgment]) -> list[LabelledJudgment]:
    """The judgments whose pair has a human label, in order, each with that label turned to its own orientation.

    Several labels of one pair are averaged, and the average says which response the humans prefer: exactly even is a
    tie. Judgments of other pairs are left out.
    """
    labels = grouped(gold, lambda label: label.pair.id)
    return [
        LabelledJudgment(judgment, choice(fmean(label.p_of(judgment.pair.a) for label in labels[judgment.pair.id])))
        for judgment in judgments
        if judgment.pair.id in labels
    ]


def decided(labelled: Iterable[LabelledJudgment]) -> list[LabelledJudgment]:
    """Those on which the human has a preference: the only ones with a right choice."""
    return [item for item in labelled if not item.tie]
