"""What scores a text for training: the judge itself, or the constitution's checks.

Training knows neither, so it is handed callables. A judge is opened when its scorer is, stays open while training
lasts, and answers through the shared reply cache: a run that was killed hears the same again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

from rlaif.config import Recipe
from rlaif.config.judging import ChecklistMode
from rlaif.config.models import JudgeModel
from rlaif.config.scoring import ChecksScore, JudgeScore, Veto
from rlaif.constitution import Constitution, Principle, load_constitution
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.judge.contrast import Versus
from rlaif.feedback.judge.score import score_responses
from rlaif.models.chat import ChatModel
from rlaif.patterns import Endless
from rlaif.records import Prompt
from rlaif.run import Run
from rlaif.stages.asking import asking

TextScorer = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]


@contextlib.contextmanager
def text_scorers(recipe: Recipe, run: Run) -> Iterator[Callable[[JudgeScore | ChecksScore | Veto], TextScorer]]:
    """Inside, sections of the recipe become scorers of texts; judges are closed at the end.

    With several processes only the first one asks a judge (`training.optimise.scorers.in_one_process`), so only there
    is one opened.
    """
    from rlaif.training import parallel

    constitution = load_constitution(recipe.constitution)
    opened: list[tuple[JudgeModel, ChatModel]] = []
    with contextlib.ExitStack() as stack:

        def judge(model: JudgeModel) -> ChatModel:
            for known, chat in opened:
                if known == model:
                    return chat
            opened.append((model, stack.enter_context(asking(model, run))))
            return opened[-1][1]

        def scorer(source: JudgeScore | ChecksScore | Veto) -> TextScorer:
            if isinstance(source, Veto):
                return vetoes(constitution)
            if isinstance(source, ChecksScore):
                return checks(constitution, source)
            if parallel.rank():
                return _nobody
            model, weaker = source.model or recipe.judge, getattr(source.mode, "against", None)
            if weaker is None:
                return judged(judge(model), source, constitution, recipe)
            both = [nullcontext(judge(one)) for one in (model, weaker)]
            return judged(Versus(lambda: both[0], lambda: both[1]), source, constitution, recipe)

        yield scorer


def judged(model: ChatModel, source: JudgeScore, constitution: Constitution, recipe: Recipe) -> TextScorer:
    """What the judge says of each response, in [-1, 1], or with `contrast` the log density ratio over tau; None where a
    question failed."""

    def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        responses = list(zip(prompts, texts, strict=True))
        rated = score_responses(model, source.mode, responses, constitution, recipe.label, recipe.seed)
        values = [None if one is None else one.value for one in rated.scores]
        if isinstance(source.mode, ChecklistMode):
            return [None if value is None else 2 * value - 1 for value in values]
        return values

    return score


def checks(constitution: Constitution, source: ChecksScore) -> TextScorer:
    """The weighted share of the checked principles that each response passes; None where none applies, or one comes to
    no end.

    ConfigError for a principle that the constitution has not, or that has no check.
    """
    checked = _checked(constitution, source.principles)

    def share(these: Sequence[Principle], text: str) -> float | None:
        return sum(p.weight for p in these if p.passes(text)) / sum(p.weight for p in these) if these else None

    return _by_checks(checked, share)


def vetoes(constitution: Constitution) -> TextScorer:
    """0 where a checked principle with `veto: true` fails, else 1; None where one comes to no end.

    ConfigError where the constitution has none."""
    absolute = [p for p in constitution.principles if p.veto and p.check is not None]
    if not absolute:
        raise ConfigError(
            f"optimise.veto: constitution {constitution.id!r} has no principle with both `check` and `veto: true`"
        )

    return _by_checks(absolute, lambda these, text: float(all(p.passes(text) for p in these)))


def _by_checks(
    principles: Sequence[Principle], value: Callable[[Sequence[Principle], str], float | None]
) -> TextScorer:
    """The value of each response by the principles that apply to its prompt; None where a check comes to no end."""

    def of(prompt: Prompt, text: str) -> float | None:
        try:
            return value([p for p in principles if not p.tags or set(p.tags) & set(prompt.tags)], text)
        except Endless:
            return None

    return lambda prompts, texts: [of(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def _checked(constitution: Constitution, names: Sequence[str]) -> list[Principle]:
    checked = {p.id: p for p in constitution.principles if p.check is not None}
    if not checked:
        raise ConfigError(f"optimise.scoring: constitution {constitution.id!r} has no checked principle to score by")
    for name in names:
        if name not in checked:
            raise ConfigError(
                f"optimise.scoring.principles: {name!r} is no checked principle of constitution {constitution.id!r}"
                f"{did_you_mean(name, checked)}"
            )
    return [checked[name] for name in names] if names else list(checked.values())


def _nobody(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    raise AssertionError("only the first process asks")
