"""Open a recipe's judge for a whole audit, not for each of its rounds: starting a judge can take a minute.

One judge at a time, because two may not fit the GPU: another one (of a panel) takes the place of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from rlaif.audits.gold import GoldLabels
from rlaif.config.feedback import LabelSection
from rlaif.config.models import JudgeModel
from rlaif.console import bar
from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeResult, OpenJudge, judge_by_mode, passes
from rlaif.models.cache import CachedModel, shared
from rlaif.models.engine import Engine
from rlaif.models.open import open_model


class Judges(NamedTuple):
    """The judge behind the reply cache that all runs share, and the same judge without it."""

    cached: OpenJudge
    fresh: OpenJudge


class _Opening(NamedTuple):
    """The judge that was opened last."""

    config: JudgeModel
    cached: CachedModel
    model: Engine


@contextmanager
def open_judges(own: JudgeModel, scope: str) -> Iterator[Judges]:
    """Openers for judge_by_mode; `own` is what they open for None, and at the end nothing is left open.

    Replies of a model of unknown revision are shared within this scope only.
    """
    held: list[_Opening] = []  # one at most

    def hold(config: JudgeModel) -> _Opening:
        if not held or held[0].config != config:
            close()
            model = open_model(config)
            try:
                held.append(_Opening(config, shared(model, config, scope), model))
            except BaseException:
                model.close()
                raise
        return held[0]

    def close() -> None:
        while held:
            held.pop().cached.close()

    try:
        yield Judges(
            cached=lambda config: nullcontext(hold(config or own).cached),
            fresh=lambda config: nullcontext(hold(config or own).model),
        )
    finally:
        close()


def judge_gold(
    open_judge: OpenJudge, gold: GoldLabels, constitution: Constitution, section: LabelSection, seed: int
) -> JudgeResult:
    """The pairs that people labelled, judged as the section says, with a progress bar."""
    pairs = [label.pair for label in gold.judgments]
    with bar("judge", len(pairs) * passes(section.mode), "pairs") as advance:
        return judge_by_mode(open_judge, pairs, constitution, section, seed, advance)
