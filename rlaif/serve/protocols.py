"""What each trainer sends and wants back, read in their sources: docs/serve.md has the versions.

OpenRLHF, LLaMA-Factory and verl send one templated text, slime a prompt (text or messages) and a response, NeMo-Gym
the objects of the Responses API. None but `/score` has a place for "no score", so that is an error of the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
from statistics import mean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from rlaif.api.scorers import Scored
from rlaif.errors import DataError
from rlaif.jsonl import check_text
from rlaif.models.local.parsing import answer_in
from rlaif.serve.responses import Turns, comparison, input_of, output_of, turns
from rlaif.serve.service import Service, no_score, question_of
from rlaif.serve.target import Judged, Question

if TYPE_CHECKING:
    from fastapi import APIRouter


class _Body(BaseModel):
    """Trainers send more than they document: what is not named here is not looked at."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OneBody(_Body):
    """A conversation; where it names no tags or principles, those of the whole request."""

    prompt: Turns
    response: str
    tags: list[str] | None = None
    principles: list[str] | None = None


class ScoreBody(_Body):
    """One conversation, or several."""

    prompt: Turns | None = None
    response: str | None = None
    conversations: list[OneBody] | None = None
    tags: list[str] = Field(default_factory=list)
    principles: list[str] = Field(default_factory=list)


class JudgeBody(_Body):
    prompt: Turns
    a: str
    b: str
    tags: list[str] = Field(default_factory=list)
    principles: list[str] = Field(default_factory=list)


class OpenRlhfBody(_Body):
    query: list[str] = Field(min_length=1)
    prompts: list[str | None] | None = None


class SlimeBody(_Body):
    prompt: Turns
    response: str


class LlamaFactoryBody(_Body):
    messages: list[str] = Field(min_length=1)


class TextsBody(_Body):
    """vLLM's `/classify` and `/v1/embeddings`."""

    input: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = None


class VerifyBody(_Body):
    responses_create_params: dict[str, Any]
    response: dict[str, Any]
    tags: list[str] = Field(default_factory=list)
    principles: list[str] = Field(default_factory=list)


class CompareBody(_Body):
    conversation_history: list[dict[str, Any]]
    response_objs: list[dict[str, Any]] = Field(min_length=2)
    principle: str | None = None


async def score(service: Service, body: ScoreBody) -> Any:
    """Our own: a value for each conversation, or null with the reason."""
    alone = body.prompt is not None and body.response is not None
    given = [OneBody(prompt=body.prompt or "", response=body.response or "")] if alone else body.conversations
    if not given or (alone and body.conversations is not None):
        raise DataError("needs `prompt` and `response`, or `conversations`, a list of these")
    found = await service.score("score", [_own(one, place, body) for place, one in enumerate(given)])
    if all(one.value is None for one in found):
        raise no_score(next((one for one in found if not one.refused), found[0]))
    rows = [{"value": one.value, "reason": one.reason or None, "parts": one.parts, **_said(one)} for one in found]
    return rows[0] if alone else {"scores": rows}


async def judge(service: Service, body: JudgeBody) -> Any:
    """Our own: the judgment of a pair."""
    a, b = answer_in(body.a), answer_in(body.b)
    question = question_of(turns(body.prompt, "prompt"), a, b, body.tags, body.principles)
    if a == b:
        raise DataError("a and b are the same text, so neither is better")
    (found,) = await service.judge("judge", [question])
    return _judgment(found).model_dump(mode="json")


async def openrlhf(service: Service, body: OpenRlhfBody) -> Any:
    """`--reward.remote_url`."""
    prompts = body.prompts or [None] * len(body.query)
    if len(prompts) != len(body.query):
        raise DataError(f"prompts: {len(prompts)} of them to {len(body.query)} queries")
    read = [service.read(text, prompt) for text, prompt in zip(body.query, prompts, strict=True)]
    found = await service.score("openrlhf", [question_of(*one) for one in read])
    values = [_value(one) for one in found]
    whole = all(None not in one.parts.values() for one in found)
    return {
        "rewards": values,
        "scores": [service.target.share(value) for value in values],
        "extra_logs": {name: [one.parts[name] for one in found] for name in (found[0].parts if whole else {})},
    }


async def slime(service: Service, body: SlimeBody) -> Any:
    """`--rm-type remote_rm --rm-url`: the number alone."""
    given = body.prompt
    messages, text = service.read_apart(given if isinstance(given, str) else None, body.response)
    (found,) = await service.score("slime", [question_of(messages or turns(given, "prompt"), text)])
    return _value(found)


async def llama_factory(service: Service, body: LlamaFactoryBody) -> Any:
    """`reward_model_type: api`."""
    found = await service.score("llamafactory", [question_of(*service.read(text)) for text in body.messages])
    return {"id": "scoreeval", "object": "score.evaluation", "scores": [_value(one) for one in found]}


async def classify(service: Service, body: TextsBody) -> Any:
    """verl's discriminative reward model behind vLLM; no activation."""
    found = await _values(service, "classify", body)
    data = [{"index": i, "label": None, "probs": [x], "num_classes": 1} for i, x in enumerate(found)]
    return {"id": "classify", "object": "list", "model": service.target.name, "data": data}


async def embeddings(service: Service, body: TextsBody) -> Any:
    """The same behind SGLang."""
    found = await _values(service, "embeddings", body)
    data = [{"index": i, "object": "embedding", "embedding": [x]} for i, x in enumerate(found)]
    return {"object": "list", "model": service.target.name, "data": data}


async def seed_session(service: Service, body: _Body) -> Any:
    """NeMo-Gym begins a rollout with it; there is nothing to keep."""
    return {}


async def verify(service: Service, body: VerifyBody) -> Any:
    """NeMo-Gym's resources server: the request back, with its reward."""
    messages = input_of(body.responses_create_params)
    text = output_of(body.response, "response")
    (found,) = await service.score("verify", [question_of(messages, text, None, body.tags, body.principles)])
    return {**body.model_dump(mode="json"), "reward": _value(found)}


async def compare(service: Service, body: CompareBody) -> Any:
    """NeMo-Gym's genrm_compare: of each response the mean probability of being better than another of its group."""
    messages = turns(body.conversation_history, "conversation_history")
    texts = [output_of(one, f"response_objs[{i}]") for i, one in enumerate(body.response_objs)]
    check_text(body.principle, "principle")
    if body.principle is not None and not body.principle.strip():
        raise DataError("principle: blank; leave it out to compare by the constitution")
    base = question_of(messages, texts[0])._replace(asked=body.principle or "")
    places = list(combinations(range(len(texts)), 2))
    asked = [(i, j) for i, j in places if texts[i] != texts[j]]  # equal texts are as good as each other
    questions = [base._replace(text=texts[i], other=texts[j]) for i, j in asked]
    found = dict(zip(asked, await service.judge("compare", questions), strict=True))
    p = {(i, j): _judgment(found[i, j]).p_of(texts[i]) if (i, j) in found else 0.5 for i, j in places}
    p |= {(j, i): 1 - value for (i, j), value in p.items()}
    return {
        "rewards": [mean(p[i, j] for j in range(len(texts)) if j != i) for i in range(len(texts))],
        "comparison_results": [comparison(i, j, p[i, j]) for i, j in places],
        "metrics": {"pairs": float(len(places)), "asked": float(len(asked))},
    }


PROTOCOLS: tuple[tuple[str, type[_Body], Callable[[Service, Any], Awaitable[Any]]], ...] = (
    ("/score", ScoreBody, score),
    ("/judge", JudgeBody, judge),
    ("/get_reward", OpenRlhfBody, openrlhf),
    ("/slime", SlimeBody, slime),
    ("/v1/score/evaluation", LlamaFactoryBody, llama_factory),
    ("/classify", TextsBody, classify),
    ("/v1/embeddings", TextsBody, embeddings),
    ("/seed_session", _Body, seed_session),
    ("/verify", VerifyBody, verify),
    ("/compare", CompareBody, compare),
)
"""Where a trainer asks, what it sends, and who answers."""


def routes(service: Service) -> APIRouter:
    """The addresses of all protocols."""
    from fastapi import APIRouter  # noqa: PLC0415 (an extra)

    def endpoint(answer: Callable[[Service, Any], Awaitable[Any]], kind: type[_Body]) -> Callable[..., Awaitable[Any]]:
        async def answered(body: Any) -> Any:
            with service.meter.counted(answer.__name__):
                return await answer(service, body)

        answered.__annotations__ = {"body": kind}  # FastAPI reads what a body is from here
        return answered

    router = APIRouter()
    for path, kind, answer in PROTOCOLS:
        router.add_api_route(path, endpoint(answer, kind), methods=["POST"], name=answer.__name__)
    return router


def _own(one: OneBody, place: int, body: ScoreBody) -> Question:
    tags = body.tags if one.tags is None else one.tags
    principles = body.principles if one.principles is None else one.principles
    return question_of(
        turns(one.prompt, f"conversations[{place}]: prompt"), answer_in(one.response), None, tags, principles
    )


async def _values(service: Service, protocol: str, body: TextsBody) -> list[float]:
    if body.messages is not None:
        *before, last = turns(body.messages, "messages") or (None,)
        if last is None or last.role != "assistant":
            raise DataError("messages: must end with the assistant's turn, which is scored")
        questions = [question_of(tuple(before), answer_in(last.content))]
    else:
        texts = [body.input] if isinstance(body.input, str) else body.input or []
        questions = [question_of(*service.read(text)) for text in texts]
    if not questions:
        raise DataError("input: must be a text, or a list of them")
    return [_value(one) for one in await service.score(protocol, questions)]


def _value(scored: Scored) -> float:
    if scored.value is None:
        raise no_score(scored)
    return scored.value


def _judgment(judged: Judged) -> Any:
    if judged.judgment is None:
        raise no_score(judged)
    return judged.judgment


def _said(scored: Scored) -> dict[str, Any]:
    """What a judge said by principle."""
    return {} if scored.score is None else {"principles": {p.principle: p.value for p in scored.score.principles}}
