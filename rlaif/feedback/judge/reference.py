"""Hold a response against what its prompt refers to: documents, the prompt's other samples, or right answers; and the
claims of a conversation against those before (`ledger`).

The judge is never asked whether a claim is true. It must quote the passage that decides, and code looks whether that
stands in a document; or it says whether two samples contradict each other; or it is not asked at all. What each is
worth is in `feedback/claims.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any

from pydantic import Field

from rlaif.config.judging import ReferenceMode
from rlaif.constitution import Principle
from rlaif.feedback.claims import QUOTES, claims_of, corrects, graded, loss, stated_confidence, verified
from rlaif.feedback.judge.asking import Bench, NoVerdict, Sampling, label_logprobs, no_text
from rlaif.feedback.judge.drive import Work, sharing, together
from rlaif.feedback.rating import NO, YES, shares
from rlaif.formats.given import documents_of, without_documents
from rlaif.models.engine import ChatRequest, Reply
from rlaif.records import Claim, Messages, PrincipleScore, Prompt, Record
from rlaif.templates import SHAPES, JudgeTemplate, load_template

Decision = PrincipleScore | NoVerdict
_FORM = re.compile(r"\W*(SUPPORTS|REFUTES|NONE)\b[\s:]*(.*)", re.DOTALL | re.IGNORECASE)
_VERDICTS = {"SUPPORTS": "supported", "REFUTES": "refuted"}


def decide(
    bench: Bench[ReferenceMode], prompt: Prompt, text: str, others: Sequence[str], by: Principle
) -> Work[Decision]:
    """What the principle's reference says of the response; `others` are the prompt's other samples."""
    if by.reference == "documents":
        return (yield from _by_documents(bench, prompt, text, by))
    if by.reference == "samples":
        return (yield from _by_samples(bench, prompt, text, others, by))
    return _by_answers(bench.mode, prompt, text, by)


def _by_documents(bench: Bench[ReferenceMode], prompt: Prompt, text: str, by: Principle) -> Work[Decision]:
    if not documents_of(prompt.messages, prompt.given):
        return NoVerdict("nothing to refer to", "the prompt has no documents: `given: {documents: [...]}` in its row")
    claims = yield from held_against(bench, prompt, claims_of(text))
    if isinstance(claims, NoVerdict):
        return claims
    wrong = sum(claim.verdict != "supported" for claim in claims)
    return _scored(by, wrong / len(claims) if claims else 0.0, claims=tuple(claims))


def held_against(bench: Bench[ReferenceMode], prompt: Prompt, spoken: Sequence[str]) -> Work[list[Claim] | NoVerdict]:
    """The claims, each with what the judge quotes from the prompt's documents."""
    documents, template = documents_of(prompt.messages, prompt.given), bench.template
    requests = [
        ChatRequest(
            messages=template.render(
                prompt=without_documents(prompt.messages),
                responses=("\n\n".join(documents), claim),
                preamble=bench.constitution.preamble,
            ),
            max_tokens=bench.mode.max_tokens,
        )
        for claim in spoken
    ]
    replies = yield sharing(requests)
    # The judge reads documents in which control tokens are text; it may quote either form.
    known = (*documents, *map(template.defused, documents))
    found = [_claim(bench.mode, claim, reply, known) for claim, reply in zip(spoken, replies, strict=True)]
    problem = next((one for one in found if isinstance(one, NoVerdict)), None)
    return problem or [one for one in found if isinstance(one, Claim)]


def _claim(mode: ReferenceMode, claim: str, reply: Reply, documents: Sequence[str]) -> Claim | NoVerdict:
    if problem := no_text(reply, "quote"):
        return problem
    form = _FORM.match(reply.text.strip())
    if form is None:
        return NoVerdict("no quote in the form asked for", reply.text[:200])
    word, said = form[1].upper(), form[2].strip()
    if word not in _VERDICTS:
        return Claim(text=claim, verdict="unsupported")
    tries = [each.strip(QUOTES) for each in (said, said.partition("\n")[0])]  # some judges go on after the line
    quote = next((one for one in tries if verified(one, documents, mode.min_words)), None)
    if quote is None:
        return Claim(text=claim, verdict="unsupported", misquote=tries[0])
    return Claim.model_validate({"text": claim, "verdict": _VERDICTS[word], "quote": quote})


def contradictions(
    template: JudgeTemplate, prompt: Prompt, text: str, others: Sequence[str], preamble: str, min_mass: float
) -> Work[list[float] | NoVerdict]:
    """P(the text contradicts it) of each of the others: equal ones are asked about once, and none about itself."""
    asked, distinct = without_documents(prompt.messages), dict.fromkeys(other for other in others if other != text)
    requests = [
        ChatRequest(
            messages=template.render(prompt=asked, responses=(text, other), preamble=preamble), labels=template.labels
        )
        for other in distinct
    ]
    replies = yield sharing(requests)
    found = [label_logprobs(reply, template.labels, min_mass) for reply in replies]
    if problem := next((one for one in found if isinstance(one, NoVerdict)), None):
        return problem
    labels = SHAPES["contradict"].labels  # a template may bring its own, in the same order
    told = [dict(zip(labels, one.values(), strict=True)) for one in found if not isinstance(one, NoVerdict)]
    known = {text: 0.0} | {other: shares(one, (YES, NO))[0] for other, one in zip(distinct, told, strict=True)}
    return [known[other] for other in others]


def flipped(
    template: JudgeTemplate, prompt: Prompt, one: str, other: str, preamble: str, min_mass: float
) -> Work[float | None]:
    """P(two answers contradict each other), the mean of both orders; None where the judge does not say."""
    orders = ((one, [other]), (other, [one]))
    found = yield from together(contradictions(template, prompt, *each, preamble, min_mass) for each in orders)
    told = [each[0] for each in found if not isinstance(each, NoVerdict)]
    return fmean(told) if len(told) == len(orders) else None


def _by_samples(
    bench: Bench[ReferenceMode], prompt: Prompt, text: str, others: Sequence[str], by: Principle
) -> Work[Decision]:
    if not others:
        return NoVerdict("nothing to refer to", "the prompt has no other sample: raise responses_per_prompt")
    template, preamble = opened(bench.mode.contradict, "contradict"), bench.constitution.preamble
    found = yield from contradictions(template, prompt, text, others, preamble, bench.section.min_label_mass)
    return found if isinstance(found, NoVerdict) else _scored(by, fmean(found))


def _by_answers(mode: ReferenceMode, prompt: Prompt, text: str, by: Principle) -> Decision:
    gold = prompt.given.gold if prompt.given else ()
    if not gold:
        return NoVerdict("nothing to refer to", "the prompt has no right answer: `given: {gold: [...]}` in its row")
    grade = graded(text, gold, mode.unstated)
    return _scored(by, loss(grade, mode.abstain_at), grade=grade)


def _scored(by: Principle, wrong: float, **kept: Any) -> PrincipleScore:
    return PrincipleScore(principle=by.id, checked=False, value=-wrong if wrong else 0.0, **kept)


opened = lru_cache(maxsize=8)(load_template)
"""A template beside the bench's own, by its name and kind."""


def sampling(bench: Bench[ReferenceMode]) -> Sampling:
    """For the provenance."""
    mode = bench.mode
    return {
        "max_tokens": mode.max_tokens,
        "min_words": mode.min_words,
        "contradict": opened(mode.contradict, "contradict").hash,
        "abstain_at": mode.abstain_at,
        "unstated": mode.unstated,
        "temperature": 0.0,
    }


class Entry(Record):
    """One claim of the assistant in a conversation, the earlier ones that it contradicts, and whether its turn takes
    these back."""

    turn: int = Field(ge=0)
    text: str
    confidence: float | None = None
    """As its sentence states it."""
    contradicts: tuple[int, ...] = ()
    """Entries of earlier turns, by their number, that it cannot be true with; those taken back before are not asked."""
    corrects: bool = False
    """Whether its turn says that it takes something back: then what it contradicts no longer counts."""
    checked: Claim | None = None
    """Against the documents, where the conversation has any."""


def ledger(bench: Bench[Any], prompt: Prompt, later: Messages) -> Work[list[Entry] | NoVerdict]:
    """Of the conversation that begins with the prompt, its claims in order."""
    whole, entries, withdrawn = (*prompt.messages, *later), list[Entry](), set[int]()
    template = opened(bench.mode.contradict, "contradict")
    for turn, said in enumerate(whole):
        spoken = claims_of(said.content) if said.role == "assistant" else []
        so_far = prompt.model_copy(update={"messages": whole[:turn]})
        checked: Sequence[Claim | None] | NoVerdict = [None] * len(spoken)
        if documents_of(so_far.messages, prompt.given):
            checked = yield from held_against(bench, so_far, spoken)
        if isinstance(checked, NoVerdict):
            return checked
        standing = [number for number in range(len(entries)) if number not in withdrawn]
        against = [entries[number].text for number in standing]
        common = (bench.constitution.preamble, bench.section.min_label_mass)
        found = yield from together(contradictions(template, so_far, claim, against, *common) for claim in spoken)
        takes_back = corrects(said.content)
        for claim, chances, one in zip(spoken, found, checked, strict=True):
            if isinstance(chances, NoVerdict):
                return chances
            broken = tuple(number for number, p in zip(standing, chances, strict=True) if p > 0.5)
            known = {"confidence": stated_confidence(claim), "contradicts": broken, "checked": one}
            entries.append(Entry(turn=turn, text=claim, corrects=takes_back and bool(broken), **known))
            withdrawn |= set(broken) if takes_back else set()
    return entries
