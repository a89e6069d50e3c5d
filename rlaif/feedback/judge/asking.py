"""What every way of judging shares: the bench, reading replies, and the rows of what has no verdict.

Nothing here retries or caches (the models do) and nothing here guesses: a reply that is no verdict is a `NoVerdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import MemberMode, RankMode, ReviseMode
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.persona import Unfilled
from rlaif.errors import ConfigError
from rlaif.feedback.judge.drive import Work
from rlaif.feedback.judge.result import Outcome, UnitResult
from rlaif.models.engine import Engine, Reply, excess, is_logprob, no_answer
from rlaif.patterns import Undecided
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Provenance, Side
from rlaif.templates import JudgeTemplate, Kind, load_template

M = TypeVar("M", bound=MemberMode | RankMode | ReviseMode)
Sampling = dict[str, float | int | str]


class NoVerdict(NamedTuple):
    """Why a reply is none: a short fixed phrase, and the evidence."""

    reason: str
    detail: str
    too_long: bool = False
    """The question is longer than the model reads."""


class Bench(NamedTuple, Generic[M]):
    """What all units of one mode are judged with."""

    mode: M
    constitution: Constitution
    template: JudgeTemplate
    section: LabelSection
    seed: int
    annotator: Callable[[], str]
    """Known, as the provenance is, once the model was asked: of two models that take turns, one opens late."""
    provenance: Callable[[], Provenance]

    def judgment(self, pair: Pair, p_a: float, principles: tuple[PrincipleJudgment, ...] = ()) -> Judgment:
        """What the judge says of a pair."""
        return Judgment(
            pair=pair,
            source="ai",
            annotator=self.annotator(),
            p_a=p_a,
            principles=principles,
            provenance=self.provenance(),
        )


class Way(NamedTuple):
    """How one mode judges: what it does for a unit of work, and what its bench needs."""

    work: Callable[[Bench[Any], Any], Work[UnitResult]]
    """Of a list: one pair, or with `by_prompt` all pairs of a prompt. `revise` takes a response."""
    template: Kind
    sampling: Callable[[Bench[Any]], Sampling]
    """What the mode adds to the provenance."""
    by_prompt: bool = False
    title: str = ""
    """What the annotator is called after the model, where that is not the template's name."""

    def bench(
        self,
        model: Engine,
        mode: M,
        constitution: Constitution,
        section: LabelSection,
        seed: int,
        template: JudgeTemplate | None = None,
    ) -> Bench[M]:
        """With the mode's template, or another one. ConfigError for a template that is none of its kind."""
        used = template or load_template(mode.template, self.template)

        def provenance() -> Provenance:
            knobs = section.aggregation.model_dump(exclude={"kind"})
            shown = ", ".join(f"{key}={value}" for key, value in knobs.items())
            return Provenance(
                constitution=constitution.id,
                constitution_version=constitution.version,
                constitution_hash=constitution.hash,
                judge=model.name,
                judge_revision=model.revision,
                template=used.name,
                template_hash=used.hash,
                sampling=self.sampling(bench) | {"check_margin": section.check_margin},
                aggregation=f"{section.aggregation.kind}({shown})" if shown else section.aggregation.kind,
            )

        name = self.title or used.name
        bench = Bench(mode, constitution, used, section, seed, lambda: f"{model.name}:{name}", cache(provenance))
        return bench


def alone(judge: Callable[[Bench[Any], Pair], Work[Outcome]]) -> Callable[[Bench[Any], list[Pair]], Work[UnitResult]]:
    """The work of a mode that judges each pair by itself."""

    def work(bench: Bench[Any], pairs: list[Pair]) -> Work[UnitResult]:
        (pair,) = pairs
        outcome = yield from judge(bench, pair)
        return UnitResult([outcome])

    return work


def label_logprobs(reply: Reply, labels: Sequence[str], min_mass: float) -> dict[str, float] | NoVerdict:
    """The natural-log probabilities of the labels, as the model gave them, or why the reply has none to trust."""
    if reply.error is not None:
        return NoVerdict("model error", reply.error, reply.refused == "length")
    logprobs = reply.label_logprobs or {}
    found = {label: logprobs.get(label, math.nan) for label in labels}
    if not all(map(is_logprob, found.values())):
        return NoVerdict("no label log-probabilities", f"got {logprobs} for labels {tuple(labels)}")
    mass = math.fsum(map(math.exp, found.values()))
    if mass > 1 and (too_much := excess(found.values())):
        return NoVerdict("too much probability on the labels", too_much)
    if mass < min_mass:
        return NoVerdict(
            "too little probability on the labels",
            f"{mass:.2g} in all, label.min_label_mass is {min_mass:g}",
        )
    return found


def no_text(reply: Reply, what: str) -> NoVerdict | None:
    """Why nothing can follow a reply that should be a text (a reason, a critique); None where something can."""
    if reply.error is not None:
        return NoVerdict("model error", reply.error, reply.refused == "length")
    if reply.finish_reason == "reasoning":
        return NoVerdict(f"the {what} was cut off", f"{no_answer(reply)}; see judge.thinking and label.mode.max_tokens")
    if reply.finish_reason == "length":
        return NoVerdict(
            f"the {what} was cut off", f"after {reply.completion_tokens} tokens; see label.mode.max_tokens"
        )
    if not reply.text.strip():
        return NoVerdict(f"no {what}", "the reply is empty")
    return None


def check_texts(constitution: Constitution, mode: str) -> None:
    """ConfigError for a principle that lacks the text by which a judge of this mode is asked about it."""
    asked = [principle for principle in constitution.principles if principle.decided_in(mode)]
    if not asked:
        raise ConfigError(
            f"constitution {constitution.id!r}: no principle has "
            f"{'a `reference`, which' if mode == 'reference' else 'more than a `reference`, and'} "
            f"label.mode.kind={mode} asks by {'it' if mode == 'reference' else 'more'}"
        )
    for principle in asked:
        if not principle.coded and not principle.asked_in(mode):
            field, others = ("contrast", "compare") if mode == "contrast" else ("compare", "contrast")
            field = "question" if mode == "turns" else field
            raise ConfigError(
                f"constitution {constitution.id!r}: principle {principle.id!r} has no `{field}`, which "
                f"label.mode.kind={mode} asks by: add it, or judge by label.mode.kind={others}"
            )
        if mode in {"score", "checklist"} and principle.asked_in(mode) and principle.question is None:
            raise ConfigError(
                f"constitution {constitution.id!r}: principle {principle.id!r} has no `question`, and {mode} "
                "looks at one response at a time: add `question` and `desired`, or judge by compare (a fit cannot)"
            )


def choice_sampling(bench: Bench[Any]) -> Sampling:
    """How one forced choice among the template's labels is asked."""
    return {"labels": " ".join(bench.template.labels), "temperature": 0.0, "max_tokens": 1, "seed": bench.seed}


def failed(identity: str, principle: Principle | None, why: NoVerdict, first: Side | None = None) -> Failure:
    """The row of a pair or a response of which a question has no verdict."""
    name = principle.id if principle else None
    said = {"reason": why.reason, "detail": why.detail, "too_long": why.too_long}
    return Failure(stage="label", id=identity, principle=name, first=first, **said)


def no_principle(identity: str, tags: Sequence[str]) -> Failure:
    """The row of a pair or a response to which no principle applies."""
    return Failure(stage="label", id=identity, reason="no principle applies", detail=shown_tags(tags))


def unfilled(identity: str, error: Unfilled) -> Failure:
    """The row of a pair or a response to a prompt whose profile lacks what a principle asks for."""
    return Failure(stage="label", id=identity, reason="the profile lacks a name", detail=str(error))


def not_decided(identity: str, principle: str, error: Undecided) -> Failure:
    """The row of a pair or a response about which code cannot tell."""
    return Failure(stage="label", id=identity, reason=error.reason, detail=str(error), principle=principle)


def shown_tags(tags: Sequence[str]) -> str:
    """The tags of a prompt, for a failure's detail."""
    return f"prompt tags: {', '.join(tags) or 'none'}"
