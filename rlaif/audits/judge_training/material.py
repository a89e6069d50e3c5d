"""From labels to lessons: the very requests that judging makes of a pair, and what the label asks of each.

The requests for one principle are those of `compare.py`, `score.py` and `contrast.py`; which principles the judge is
asked about is `compare.plan`'s: what code decides is not asked and teaches nothing. Where a label says nothing by
principle, the pair teaches one principle in each epoch, drawn by weight, towards the label as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlaif.audits.judge_training.labels import PairLabel, key_of
from rlaif.config import Recipe
from rlaif.config.feedback import Mean
from rlaif.config.judging import ChecklistMode, CompareMode, ContrastMode, ScoreMode
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge.asking import check_texts
from rlaif.feedback.judge.compare import ORDERS, plan, question
from rlaif.feedback.judge.contrast import tau_of
from rlaif.feedback.judge.score import requests_of as requests_about
from rlaif.feedback.verdict import draw
from rlaif.models.engine import ChatRequest
from rlaif.records import Pair, Prompt, derive_seed
from rlaif.templates import load_template

if TYPE_CHECKING:
    from rlaif.training.judge.lessons import Answer, Encoder, JudgeLesson

Mode = CompareMode | ScoreMode | ChecklistMode | ContrastMode
Requests = Callable[[Pair, Principle], tuple[ChatRequest, ...]]
MODES = ("compare", "score", "checklist", "contrast")


class Subject(NamedTuple):
    """A label that can teach, and the principles that the judge is asked about its pair."""

    label: PairLabel
    asked: tuple[Principle, ...]
    own: tuple[tuple[Principle, float], ...]
    """Those of which the label itself says p(a)."""


class JudgeTrainMaterial(NamedTuple):
    """All that is taught."""

    mode: Mode
    requests: Requests
    seed: int
    subjects: tuple[Subject, ...]
    dropped: Counter[str]
    """Labels that teach nothing, by cause."""

    def lessons(self, epoch: int) -> list[JudgeLesson]:
        """One of each subject."""
        return [self._lesson(subject, subject.own or (self._drawn(subject, epoch),)) for subject in self.subjects]

    def whole(self, subject: Subject) -> JudgeLesson:
        """All that may be asked of a subject in any epoch."""
        return self._lesson(subject, subject.own or tuple((p, subject.label.p_a) for p in subject.asked))

    def _drawn(self, subject: Subject, epoch: int) -> tuple[Principle, float]:
        seed = derive_seed(self.seed, "judge", "principle", epoch)
        return draw(subject.asked, seed, subject.label.pair.id), subject.label.p_a

    def _lesson(self, subject: Subject, taught: Sequence[tuple[Principle, float]]) -> JudgeLesson:
        from rlaif.training.judge.lessons import JudgeLesson, JudgeQuestion  # noqa: PLC0415 (brings torch)

        questions = tuple(
            JudgeQuestion(self.requests(subject.label.pair, p), p_a, p.desired or "yes") for p, p_a in taught
        )
        return JudgeLesson(subject.label.pair.id, key_of(subject.label), questions, subject.label.weight)


def trainable_mode(recipe: Recipe) -> Mode:
    """The recipe's mode. ConfigError for one that has no answer of its own to train."""
    mode = recipe.label.mode
    if not isinstance(mode, CompareMode | ScoreMode | ChecklistMode | ContrastMode):
        why = "a panel has several judges: train each by itself" if mode.kind == "panel" else "it is not trained itself"
        raise ConfigError(f"judge train: label.mode.kind={mode.kind}: {why}; choose {', '.join(MODES)}")
    if isinstance(mode, ContrastMode) and mode.against is not None:
        raise ConfigError("judge train: label.mode.against names a second model, and one is trained; leave it out")
    return mode


def material_of(recipe: Recipe, constitution: Constitution, labels: Sequence[PairLabel]) -> JudgeTrainMaterial:
    """What these labels teach. ConfigError where a principle has not what the mode asks by, DataError where nothing is
    left to teach."""
    mode = trainable_mode(recipe)
    check_texts(constitution, mode.kind)
    if not any(p.asked_in(mode.kind) for p in constitution.principles):
        raise ConfigError(f"constitution {constitution.id!r}: code decides every principle, so no judge is asked")
    subjects = []
    dropped = Counter[str]()
    for label in labels:
        found = _subject(recipe, constitution, mode, label)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            subjects.append(found)
    _check_some(subjects, dropped)
    return JudgeTrainMaterial(mode, requests_of(mode, constitution), recipe.seed, tuple(subjects), dropped)


def without_long(material: JudgeTrainMaterial, encoder: Encoder, max_length: int) -> JudgeTrainMaterial:
    """Without the pairs of which a question is too long for the section or for the model."""
    kept = []
    dropped = material.dropped.copy()
    for subject in material.subjects:
        length = encoder.length(material.whole(subject))
        if encoder.context is not None and length > encoder.context:
            dropped["longer than the model's context"] += 1
        elif length > max_length:
            dropped["longer than judge_training.max_length"] += 1
        else:
            kept.append(subject)
    _check_some(kept, dropped)
    return material._replace(subjects=tuple(kept), dropped=dropped)


def requests_of(mode: Mode, constitution: Constitution) -> Requests:
    """What judging asks about a pair by one principle, in the order that `training.judge.lessons.JudgeQuestion` has."""
    template = load_template(mode.template, mode.kind)

    def compare(pair: Pair, principle: Principle) -> tuple[ChatRequest, ...]:
        return tuple(question(template, constitution, pair, principle, first) for first in ORDERS)

    def rate(pair: Pair, principle: Principle) -> tuple[ChatRequest, ...]:
        assert not isinstance(mode, CompareMode)
        prompt = Prompt(id=pair.prompt_id, messages=pair.prompt, tags=pair.tags)
        about = (requests_about(mode, template, constitution, prompt, text, principle) for text in (pair.a, pair.b))
        return tuple(request for each in about for request in each)

    return compare if isinstance(mode, CompareMode) else rate


def answer_of(mode: Mode, mass_weight: float) -> Answer:
    """How this mode learns."""
    from rlaif.training.judge import lessons  # noqa: PLC0415 (brings torch)

    if isinstance(mode, CompareMode):
        return lessons.compare_answer
    if isinstance(mode, ContrastMode):
        return lessons.contrast_answer(mode.length, tau_of(mode))
    return lessons.rated_answer(mode.kind, mass_weight)


def _subject(recipe: Recipe, constitution: Constitution, mode: Mode, label: PairLabel) -> Subject | str:
    """The label with what is asked of its pair, or why it teaches nothing."""
    # A recipe that draws one principle per pair asks about each of them, pair by pair.
    section = recipe.label.model_copy(update={"aggregation": Mean()})
    needs = plan(label.pair, constitution, section, recipe.seed, mode.kind)
    if needs.failure:
        return needs.failure.reason
    asked = tuple(
        p
        for p in needs.asked
        # One response at a time, the judge is not asked about those that fail the principle's check.
        if p.asked_in(mode.kind)
        and (isinstance(mode, CompareMode) or not p.coded or p.passes(label.pair.a, label.pair.prompt))
    )
    if not asked:
        return "code decides every principle"
    said = dict(label.by_principle)
    return Subject(label, asked, tuple((p, said[p.id]) for p in asked if p.id in said))


def _check_some(subjects: Sequence[Subject], dropped: Counter[str]) -> None:
    if not subjects:
        causes = ", ".join(f"{cause} {count}" for cause, count in dropped.most_common())
        raise DataError(f"judge train: no label is left to learn from: {causes}")
