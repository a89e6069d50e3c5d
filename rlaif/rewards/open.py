"""From a section of the recipe to the reward that it names: the one place that looks at the kind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rlaif.config import Recipe
from rlaif.config.models import JudgeModel
from rlaif.config.scoring import (
    ChecksScore,
    EnsembleScore,
    FlipsCost,
    JudgeScore,
    LengthScore,
    ModelScore,
    Scoring,
    SignalScore,
    SumScore,
    Veto,
)
from rlaif.constitution import load_constitution
from rlaif.feedback.judge.contrast import Versus
from rlaif.models.engine import Engine
from rlaif.processes import leads, several
from rlaif.records import Prompt
from rlaif.rewards.sources import FlipsReward, JudgeReward, LengthReward, SignalReward, SumReward, checks, vetoes
from rlaif.training.optimise.rewards import OpenReward, Reward, Scores

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row
    from rlaif.training.scalar_model import ScalarModel

TextSource = JudgeScore | FlipsCost | ChecksScore | Veto


class Shop(NamedTuple):
    """What rewards are made with."""

    members: Callable[[str | None], Iterable[ScalarModel]]
    """The run's reward models, read through the common head (None) or a principle's; asked when one is needed."""
    tokenizer: Callable[[], Any]
    """The policy's."""
    max_tokens: int
    """In one forward pass of the reward model."""
    text: Callable[[TextSource], Reward | None]
    """Opens what reads text; None for a judge where this process never asks it."""


def open_reward(source: Scoring | FlipsCost | Veto, shop: Shop) -> Reward:
    """The reward of one section of the recipe."""
    if isinstance(source, SumScore):
        sources = [part.source for part in source.parts]
        weights = [part.weight for part in source.parts]
        return SumReward([one.kind for one in sources], weights, [open_reward(one, shop) for one in sources])
    if isinstance(source, LengthScore):
        return LengthReward(source.per, shop.tokenizer)
    if isinstance(source, SignalScore):
        return FirstProcess(SignalReward(source.signal))
    if isinstance(source, ModelScore) and source.path is not None:
        from rlaif.rewards.model import other_reward  # noqa: PLC0415 (brings torch)

        return other_reward(Path(os.path.expanduser(source.path)), shop.max_tokens)
    if isinstance(source, ModelScore | EnsembleScore):
        from rlaif.rewards.model import ModelReward  # noqa: PLC0415 (brings torch)

        head, joined = (None, source) if isinstance(source, EnsembleScore) else (source.head, None)
        return ModelReward(lambda: shop.members(head), shop.tokenizer, shop.max_tokens, joined=joined)
    return FirstProcess(shop.text(source))


class FirstProcess(Reward):
    """A reward that the first process asks, for all: there is one judge, however many processes train."""

    def __init__(self, reward: Reward | None) -> None:
        self._reward = reward

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        def ask() -> Scores:
            assert self._reward is not None, "only the first process asks"
            return self._reward.measure(prompts, texts)

        if not several():
            return ask()
        from rlaif.training import parallel  # noqa: PLC0415 (brings torch)

        return parallel.first(ask)


@contextlib.contextmanager
def open_rewards(
    recipe: Recipe,
    ask: Callable[[JudgeModel], AbstractContextManager[Engine]],
    members: Callable[[str | None], Iterable[ScalarModel]],
    max_tokens: int,
) -> Iterator[OpenReward]:
    """Inside, sections of the recipe become rewards. `ask` opens a judge: each once, when its reward is opened, and
    closed at the end.

    With several processes only the first one asks a judge, so only there is one opened.
    """
    constitution = cache(lambda: load_constitution(recipe.constitution))
    opened: dict[str, Engine] = {}
    with contextlib.ExitStack() as stack:

        def judge(model: JudgeModel) -> Engine:
            if (name := model.model_dump_json()) not in opened:
                opened[name] = stack.enter_context(ask(model))
            return opened[name]

        def text(source: TextSource) -> Reward | None:
            if isinstance(source, Veto):
                return vetoes(constitution())
            if isinstance(source, ChecksScore):
                return checks(constitution(), source.principles)
            if not leads():
                return None
            model, weaker = source.model or recipe.judge, getattr(source.mode, "against", None)
            chat: Engine = judge(model)
            if weaker is not None:
                both = [nullcontext(chat), nullcontext(judge(weaker))]  # open until the end
                chat = Versus(lambda: both[0], lambda: both[1])
            kind: Any = FlipsReward if isinstance(source, FlipsCost) else JudgeReward
            return cast("Reward", kind(chat, source, constitution(), recipe.label, recipe.seed))

        @cache
        def tokenizer() -> Any:
            from rlaif.models.local.load import load_tokenizer  # noqa: PLC0415 (brings torch)

            return load_tokenizer(recipe.policy.model, recipe.policy.revision)

        shop = Shop(members, tokenizer, max_tokens, text)
        yield lambda source: open_reward(source, shop)
