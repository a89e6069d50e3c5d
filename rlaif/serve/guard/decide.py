"""From requests to decisions: what the policy answers, whether the constitution lets it pass, and what is sent instead.

Nothing is served here. An answer passes where every check holds, no veto principle is gone against, and the judge's
values, their mean by weight, reach the threshold. What has no verdict does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from typing import Literal, NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReviseMode
from rlaif.constitution import Principle, load_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge.asking import check_texts
from rlaif.feedback.judge.contrast import ratio_scale
from rlaif.feedback.judge.drive import drive
from rlaif.feedback.judge.revise import WAY as REVISE
from rlaif.feedback.judge.revise import revise
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.rating import CHECKLIST, RATING, by_code
from rlaif.models.engine import ChatRequest, Engine, Reply, ask, no_answer
from rlaif.patterns import Undecided
from rlaif.records import Failure, PrincipleScore, Prompt, Response, Score, content_id, derive_seed
from rlaif.serve.guard.config import BestOfAnswers, GuardSection, ReviseOnce
from rlaif.serve.guard.decision import Action, Candidate, Decision, Inquiry
from rlaif.serve.guard.language import ready


class _Case(NamedTuple):
    """A request on its way."""

    asked: Inquiry
    prompt: Prompt
    replies: list[Reply]
    candidates: list[Candidate]
    failures: list[Failure]


class Guard:
    """A policy behind a constitution. Several threads may ask at once where the engines may be asked so."""

    def __init__(self, section: GuardSection, policy: Engine, judge: Engine | None) -> None:
        """ConfigError for a constitution of which nothing could be applied, or not in this mode."""
        self.section, self.policy, self.judge = section, policy, judge
        self.constitution = load_constitution(section.constitution)
        ready(section.input.languages)
        self.hash = content_id(section.model_dump(mode="json"))
        self._label = LabelSection(mode=section.mode, min_label_mass=section.min_label_mass)
        scales = {"score": RATING, "checklist": CHECKLIST, "contrast": ratio_scale(self._label.check_margin)}
        self._scale = scales[section.mode.kind]
        middle = (self._scale.low + self._scale.high) / 2
        self.threshold = middle if section.threshold is None else section.threshold
        self._by_id = {p.id: p for p in self.constitution.for_tags(section.tags)}
        self._asked = [p for p in self._by_id.values() if judge and p.asked_in(section.mode.kind)]
        checked = [p for p in self._by_id.values() if p.coded and (section.checks == "all" or p.veto)]
        self.applied = {p.id for p in (*checked, *self._asked)}
        """Ids of the principles that can make an answer fail."""
        if judge is not None:
            check_texts(self.constitution, section.mode.kind)
        if not self.applied:
            without = "" if judge else "; name a judge, as only code decides without one"
            raise ConfigError(f"constitution {self.constitution.id!r}: no principle of it can be applied{without}")
        if isinstance(section.on_fail, ReviseOnce) and not any(p.revisable for p in self._by_id.values()):
            raise ConfigError(
                f"constitution {self.constitution.id!r}: no principle has both `critique` and `revise`, which "
                "on_fail.kind=revise needs"
            )

    def decide(self, inquiries: Sequence[Inquiry]) -> list[Decision]:
        """The decisions, in order. ModelError where the policy or the judge cannot be reached at all."""
        decided: dict[int, Decision] = {}
        cases: dict[int, _Case] = {}
        for number, asked in enumerate(inquiries):
            if broken := self.section.input.broken(asked.messages, asked.max_tokens):
                rule, how = f"input.{broken[0]}", broken[1]
                decided[number] = self._decision(asked, "input_refused", None, rule, f"{rule}: {how}")
            else:
                cases[number] = _Case(asked, Prompt.of(asked.messages, self.section.tags), [], [], [])
        self._answer(list(cases.values()), lambda case: [self._request(case.asked)], "first")
        failed = [case for case in cases.values() if case.candidates[0].rule not in (None, "no answer")]
        action = self.section.on_fail
        if isinstance(action, BestOfAnswers):
            self._answer(failed, lambda case: self._further(case.asked, action), "sample")
        elif isinstance(action, ReviseOnce):
            self._revise(failed, action)
        return [decided[n] if n in decided else self._of(cases[n]) for n in range(len(inquiries))]

    # ----------------------------------------------------------------------------------------------- candidates

    def _request(self, asked: Inquiry) -> ChatRequest:
        return ChatRequest(
            messages=asked.messages,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
        )

    def _further(self, asked: Inquiry, action: BestOfAnswers) -> list[ChatRequest]:
        changed = {"temperature": asked.temperature or action.temperature}
        seeds = (derive_seed("guard", asked.seed, number) for number in range(1, action.n))
        return [self._request(asked).model_copy(update=changed | {"seed": seed}) for seed in seeds]

    def _answer(
        self,
        cases: Sequence[_Case],
        requests: Callable[[_Case], list[ChatRequest]],
        made: Literal["first", "sample"],
    ) -> None:
        """Ask the policy, all cases at once, and judge what it says."""
        whose = [(case, request) for case in cases for request in requests(case)]
        replies = ask(self.policy, [request for _, request in whose])
        for (case, _), reply in zip(whose, replies, strict=True):
            case.replies.append(reply)
        texts = [
            (case.prompt, reply.text) for (case, _), reply in zip(whose, replies, strict=True) if _why(reply) is None
        ]
        judged = iter(self._judged(texts))
        for (case, _), reply in zip(whose, replies, strict=True):
            if why := _why(reply):
                failure = Failure(stage="guard", id=case.asked.id, reason="no answer", detail=why)
                candidate = Candidate(text=reply.text, made=made, rule="no answer", failures=(failure,))
            else:
                candidate = next(judged).model_copy(update={"made": made, "finished": reply.finish_reason == "stop"})
            case.candidates.append(candidate)

    def _judged(self, texts: Sequence[tuple[Prompt, str]]) -> list[Candidate]:
        """Each text as a candidate: by code first, and what that lets pass by the judge."""
        found = [self._checked(prompt, text) for prompt, text in texts]
        if not self._asked:
            return found
        assert self.judge is not None
        left = [place for place, candidate in enumerate(found) if candidate.rule is None]
        given = [texts[place] for place in left]
        scored = score_responses(self.judge, self.section.mode, given, self.constitution, self._label, 0)
        for place, score, failures in zip(left, scored.scores, scored.failures, strict=True):
            found[place] = self._by_judge(found[place], score, failures)
        return found

    def _checked(self, prompt: Prompt, text: str) -> Candidate:
        scores: list[PrincipleScore] = []
        candidate = Candidate(text=text, made="first")
        for p in self._by_id.values():
            if not p.coded:
                continue
            try:
                scores.append(by_code(p, text, self._scale, prompt.messages))
            except Undecided as error:
                why = Failure(stage="guard", id=prompt.id, reason=error.reason, detail=str(error))
                return Candidate(text=text, made="first", rule="no verdict", principle=p.id, failures=(why,))
            if self._scale.against(scores[-1]) and p.id in self.applied and candidate.rule is None and self._bars(p):
                candidate = candidate.model_copy(update={"rule": "veto" if p.veto else "check", "principle": p.id})
        return candidate.model_copy(update={"principles": tuple(scores)})

    def _bars(self, principle: Principle) -> bool:
        return principle.veto or self.section.checks == "all"

    def _by_judge(self, candidate: Candidate, score: Score | None, failures: Sequence[Failure]) -> Candidate:
        if score is None:
            why = {"rule": "no verdict", "principle": failures[0].principle, "failures": tuple(failures)}
            return candidate.model_copy(update=why)
        judged = [(self._by_id[one.principle], one) for one in score.principles if not one.checked]
        by_id = {one.principle: one for one in (*candidate.principles, *score.principles)}
        changes: dict[str, object] = {"principles": tuple(by_id.values())}
        if not judged:  # code decided all of it
            return candidate.model_copy(update=changes)
        value = fsum(p.weight * one.value for p, one in judged) / fsum(p.weight for p, _ in judged)
        vetoes = [p.id for p, one in judged if p.veto and self._scale.against(one)]
        if vetoes:
            changes |= {"rule": "veto", "principle": vetoes[0]}
        elif value < self.threshold:
            lowest, _ = min(judged, key=lambda one: one[0].weight * (one[1].value - self.threshold))
            changes |= {"rule": "threshold", "principle": lowest.id}
        return candidate.model_copy(update=changes | {"value": value})

    def _revise(self, cases: Sequence[_Case], action: ReviseOnce) -> None:
        """Critique and revise each case's answer by the principle that it failed, and judge the revision."""
        model = self.judge if action.by == "judge" and self.judge else self.policy
        knobs = action.model_dump(exclude={"kind", "by"})
        works, whose = [], []
        for case in cases:
            first = case.candidates[0]
            principle = self._by_id.get(first.principle or "")
            if first.rule == "no verdict" or principle is None or not principle.revisable:
                continue
            narrowed = self.constitution.model_copy(update={"principles": (principle,)})
            bench = REVISE.bench(model, ReviseMode(rounds=1, **knobs), narrowed, self._label, case.asked.seed)
            works.append(revise(bench, _response(case.asked.id, case.prompt, first, model.name)))
            whose.append(case)
        ended, _ = drive(model, works)
        revised = []
        for case, result in zip(whose, ended, strict=True):
            if result.revisions:
                revised.append((case, result.revisions[0].rounds[-1].revision))
            else:
                case.failures.extend(row for one in result.outcomes if isinstance(one, list) for row in one)
        judged = self._judged([(case.prompt, text) for case, text in revised])
        for (case, _), candidate in zip(revised, judged, strict=True):
            case.candidates.append(candidate.model_copy(update={"made": "revision"}))

    # ------------------------------------------------------------------------------------------------ decisions

    def _of(self, case: _Case) -> Decision:
        passing = [candidate for candidate in case.candidates if candidate.rule is None]
        # What was judged and failed says more than what was not judged.
        blamed = next(
            (c for c in case.candidates if c.rule not in (None, "no verdict", "no answer")), case.candidates[0]
        )
        why = "" if case.candidates[0].rule is None else self._reason(blamed)
        if passing:
            best = max(passing, key=lambda candidate: candidate.value or 0.0)  # of equals the first
            action: Action = {"first": "passed", "sample": "best_of_n", "revision": "revised"}[best.made]  # type: ignore[assignment]
            return self._decision(case.asked, action, best.text, blamed.principle, why, case, best.finished)
        if case.failures:
            why += f"; no revision: {case.failures[0].reason}"
        elif isinstance(self.section.on_fail, ReviseOnce) and len(case.candidates) == 1 and not blamed.failures:
            why += "; no revision: the principle has no `critique` and `revise`"
        if case.replies[0].refused:
            return self._decision(case.asked, "input_refused", None, f"policy.{case.replies[0].refused}", why, case)
        unanswered = blamed.rule == "no answer"
        undecided = blamed.rule == "no verdict" and self.section.no_verdict == "error"
        if unanswered or undecided:
            return self._decision(case.asked, "failed", None, blamed.principle, why, case)
        return self._decision(case.asked, "refused", self.section.refusal, blamed.principle, why, case)

    def _reason(self, candidate: Candidate) -> str:
        if candidate.failures:
            first = candidate.failures[0]
            return f"{first.reason}: {first.detail}" if first.detail else first.reason
        if candidate.rule == "threshold":
            return f"threshold: {candidate.value:.3g} is below {self.threshold:g}"
        return candidate.rule or ""

    def _decision(
        self,
        asked: Inquiry,
        action: Action,
        text: str | None,
        principle: str | None,
        reason: str,
        case: _Case | None = None,
        finished: bool = True,
    ) -> Decision:
        replies = [reply for reply in case.replies if reply.error is None] if case else []
        return Decision(
            id=asked.id,
            action=action,
            text=text,
            principle=principle,
            reason=reason,
            prompt=asked.messages,
            candidates=tuple(case.candidates) if case else (),
            failures=tuple(case.failures) if case else (),
            sampling=self._request(asked).model_dump(include={"max_tokens", "temperature", "top_p", "seed"}),
            policy=self.policy.name,
            policy_revision=self.policy.revision,
            judge=self.judge.name if self.judge else None,
            guard=self.hash,
            constitution=self.constitution.id,
            constitution_version=self.constitution.version,
            constitution_hash=self.constitution.hash,
            finished=finished,
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
        )


def _why(reply: Reply) -> str | None:
    """Why a reply of the policy is no answer."""
    if reply.error is not None:
        return reply.error
    return no_answer(reply) if reply.finish_reason == "reasoning" else None


def _response(identity: str, prompt: Prompt, candidate: Candidate, model: str) -> Response:
    return Response(
        id=content_id(identity, candidate.text),
        prompt_id=prompt.id,
        prompt=prompt.messages,
        tags=prompt.tags,
        index=0,
        text=candidate.text,
        finished=candidate.finished,
        tokens=0,
        model=model,
    )
