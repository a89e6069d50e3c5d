"""What is served: something that scores responses, or judges pairs of them, or both."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple

from rlaif.api.scorers import Scored, Scorer, scored_by_judge, share, too_long, why
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, RateMode
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.asking import check_texts
from rlaif.models.cache import CachedModel, cache_path
from rlaif.models.engine import Engine
from rlaif.records import Failure, Judgment, Pair, Prompt, grouped

TOGETHER = 32
"""Batches in work at once, where the model batches by itself."""


class Judged(NamedTuple):
    """Which of two responses is better."""

    judgment: Judgment | None
    failures: tuple[Failure, ...] = ()

    @property
    def reason(self) -> str:
        """Why there is no judgment."""
        return "; ".join(dict.fromkeys(why(failure) for failure in self.failures))

    @property
    def refused(self) -> bool:
        """There is no judgment because of what was sent."""
        return self.judgment is None and too_long(self.failures)


class Question(NamedTuple):
    """What is asked about one response, or about two."""

    prompt: Prompt
    text: str
    other: str | None = None
    principles: tuple[str, ...] = ()
    """Only these of the constitution; none: all."""
    asked: str = ""
    """In their place: a principle in words, as NeMo-Gym sends one."""

    @property
    def by(self) -> tuple[tuple[str, ...], str]:
        """By what it is to be judged."""
        return self.principles, self.asked


class Target:
    """What the service asks. Its methods are called in threads, as many at once as `workers` says."""

    name: str
    revision: str
    """What tells two of one name apart: a hash of the weights, or the judge's own."""
    workers: int = 1

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        """What each response is worth. DataError for one that names what this target has not."""
        raise DataError(f"{self.name} judges pairs and scores no single response: {self.no_score}")

    def judge(self, questions: Sequence[Question]) -> list[Judged]:
        """Which response of each question is better."""
        raise DataError(f"{self.name} scores responses and judges no pairs: serve a constitution with a judge")

    def share(self, value: float) -> float:
        """The value as a share from 0 to 1; see `api.scorers.share`."""
        return share(value)

    no_score = ""
    """Why single responses have none."""

    def check(self, question: Question) -> None:
        """DataError for what this target cannot be asked."""
        if question.principles or question.asked:
            raise DataError(f"principles: {self.name} has none to choose from; serve a constitution with a judge")

    def close(self) -> None:
        """Free what it holds."""


class RewardTarget(Target):
    """A reward: a reward model, or what a recipe's `optimise.scoring` names."""

    def __init__(self, name: str, revision: str, scorer: Scorer, stack: ExitStack) -> None:
        """`stack` is closed at the end."""
        self.name, self.revision, self._scorer, self._stack = name, revision, scorer, stack

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        return self._scorer([(one.prompt, one.text) for one in questions])

    def close(self) -> None:
        self._stack.close()


class JudgeTarget(Target):
    """A constitution and a judge: single responses by `mode`, pairs by the mode of `section`."""

    def __init__(
        self,
        constitution: Constitution,
        engine: Engine,
        mode: RateMode | None,
        section: LabelSection,
        seed: int,
        scope: str,
        workers: int = TOGETHER,
    ) -> None:
        """ConfigError where the constitution has the texts of neither."""
        self.name = f"{constitution.id}@{constitution.version}/{engine.name}"
        self.revision = engine.revision
        self.workers = workers
        self._constitution, self._engine, self._section, self._seed = constitution, engine, section, seed
        self._mode = mode
        problems = [_problem(constitution, kind) for kind in (mode.kind if mode else "", section.mode.kind)]
        if all(problems):
            raise ConfigError(problems[-1])
        self.no_score, self._no_judgment = problems
        self._scope = scope
        self._own = threading.local()
        self._opened: list[CachedModel] = []

    def score(self, questions: Sequence[Question]) -> list[Scored]:
        if self.no_score or self._mode is None:
            return super().score(questions)
        found: dict[int, Scored] = {}
        for by, places in grouped(range(len(questions)), lambda place: questions[place].by).items():
            these = [(questions[place].prompt, questions[place].text) for place in places]
            scored = scored_by_judge(self._model(), self._mode, these, self._by(*by), self._section, self._seed)
            found |= zip(places, scored, strict=True)
        return [found[place] for place in range(len(questions))]

    def judge(self, questions: Sequence[Question]) -> list[Judged]:
        if self._no_judgment:
            raise DataError(self._no_judgment)
        found: dict[int, Judged] = {}
        for by, places in grouped(range(len(questions)), lambda place: questions[place].by).items():
            pairs = [
                Pair.of(questions[place].prompt, questions[place].text, questions[place].other or "")
                for place in places
            ]
            result = self._judged(pairs, self._by(*by))
            judgments = {(one.pair.id, one.pair.a): one for one in result.judgments}
            failures = grouped(result.failures, lambda row: row.id)
            for place, pair in zip(places, pairs, strict=True):
                found[place] = Judged(judgments.get((pair.id, pair.a)), tuple(failures.get(pair.id, ())))
        return [found[place] for place in range(len(questions))]

    def share(self, value: float) -> float:
        return share(value, self._mode.kind if self._mode else "")

    def check(self, question: Question) -> None:
        known = {principle.id for principle in self._constitution.principles}
        for name in question.principles:
            if name not in known:
                raise DataError(f"principles: {self._constitution.id} has no {name!r}{did_you_mean(name, known)}")
        if question.asked and question.other is None:
            raise DataError("principle: in words it compares responses; a single one is scored by the constitution's")

    def close(self) -> None:
        for cached in self._opened:
            cached.close()
        self._engine.close()

    def _judged(self, pairs: Sequence[Pair], constitution: Constitution) -> JudgeResult:
        distinct = list({(pair.id, pair.a): pair for pair in pairs}.values())
        model = self._model()
        return judge_by_mode(lambda _: nullcontext(model), distinct, constitution, self._section, self._seed)

    def _by(self, names: tuple[str, ...], asked: str) -> Constitution:
        """The constitution with these principles alone, or with the one that was sent in words."""
        if asked:
            only = Principle(id="request", compare=asked)
            return self._constitution.model_copy(update={"id": "request", "version": "1.0.0", "principles": (only,)})
        kept = tuple(one for one in self._constitution.principles if one.id in names)
        return self._constitution.model_copy(update={"principles": kept}) if names else self._constitution

    def _model(self) -> Engine:
        """The judge behind the reply cache: every thread has a connection of its own to that."""
        if not hasattr(self._own, "model"):
            self._own.model = CachedModel(self._engine, cache_path(), self._scope)
            self._opened.append(self._own.model)
        model: CachedModel = self._own.model
        return model


def _problem(constitution: Constitution, kind: str) -> str:
    """Why the constitution cannot be asked in this mode; nothing where it can."""
    if not kind:
        return "its constitution has no texts for score, checklist or contrast"
    try:
        check_texts(constitution, kind)
    except ConfigError as error:
        return str(error)
    return ""


def comparing(section: LabelSection) -> LabelSection:
    """The section, with a mode that a pair can be asked by alone."""
    if section.mode.kind in ("rank", "revise", "panel"):
        return section.model_copy(update={"mode": CompareMode()})
    return section


def first_mode(constitution: Constitution, modes: Sequence[Any]) -> Any | None:
    """The first of the modes whose texts the constitution has."""
    return next((mode for mode in modes if not _problem(constitution, mode.kind)), None)
