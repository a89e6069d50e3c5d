"""Open a recipe's judge for a whole audit, not for each of its rounds: starting a judge can take a minute.

One judge at a time, because two may not fit the GPU: another one (of a panel) takes the place of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from rlaif.audits.gold import GoldLabels
from rlaif.config.feedback import LabelSection
from rlaif.config.models import JudgeModel
from rlaif.console import bar
from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeResult, OpenJudge, judge_by_mode, passes
from rlaif.models.cache import CachedModel, shared
from rlaif.models.chat import ChatModel
from rlaif.models.open import open_model


class Judges(NamedTuple):
    """The judge behind the reply cache that all runs share, and the same judge without it."""

    cached: OpenJudge
    fresh: OpenJudge


@contextmanager
def open_judges(own: JudgeModel, scope: str) -> Iterator[Judges]:
    """Openers for judge_by_mode; `own` is what they open for None, and at the end nothing is left open.

    Replies of a model of unknown revision are shared within this scope only.
    """
    held = _Held(own, scope)
    try:
        yield Judges(held.opener(lambda model, cached: cached), held.opener(lambda model, cached: model))
    finally:
        held.close()


def judge_gold(
    open_judge: OpenJudge, gold: GoldLabels, constitution: Constitution, section: LabelSection, seed: int
) -> JudgeResult:
    """The pairs that people labelled, judged as the section says, with a progress bar."""
    pairs = [label.pair for label in gold.judgments]
    with bar("judge", len(pairs) * passes(section.mode), "pairs") as advance:
        return judge_by_mode(open_judge, pairs, constitution, section, seed, advance)


class _Held:
    """The judge that was opened last."""

    def __init__(self, own: JudgeModel, scope: str) -> None:
        self._own = own
        self._scope = scope
        self._config: JudgeModel | None = None
        self._model: ChatModel | None = None
        self._cached: CachedModel | None = None

    def opener(self, choose: Callable[[ChatModel, CachedModel], ChatModel]) -> OpenJudge:
        def open_judge(config: JudgeModel | None) -> AbstractContextManager[ChatModel]:
            return nullcontext(choose(*self._hold(config or self._own)))

        return open_judge

    def _hold(self, config: JudgeModel) -> tuple[ChatModel, CachedModel]:
        if self._config != config or self._model is None or self._cached is None:
            self.close()
            self._model = open_model(config)
            self._cached = shared(self._model, config, self._scope)
            self._config = config
        return self._model, self._cached

    def close(self) -> None:
        """Close the judge that is held, if any."""
        if self._cached is not None:
            self._cached.close()
        elif self._model is not None:
            self._model.close()
        self._config = self._model = self._cached = None
