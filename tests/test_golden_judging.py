"""Every way of judging gives the bytes that it gave when golden/judging.json was made, faults of the judge included.

A change of a template or of a record changes them too: then make the file again and say so:
`python -c "from tests.test_golden_judging import GOLDEN, found; from rlaif.jsonl import write_json;
write_json(GOLDEN, found())"`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rlaif.audits.proposals import Candidate, DistillSettings, propose
from rlaif.audits.votes import vote
from rlaif.config.feedback import LabelSection, Lexicographic, Mean, SampleOne
from rlaif.config.judging import (
    ChecklistMode,
    CompareMode,
    ContrastMode,
    MemberMode,
    Mode,
    PanelMember,
    PanelMode,
    RankMode,
    ReasonedMode,
    ReviseMode,
    ScoreMode,
)
from rlaif.config.models import JudgeModel, ScriptedModel
from rlaif.constitution import Constitution, load_constitution
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.revise import first_responses, revise_responses
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.pairs import make_pairs
from rlaif.models.engine import ChatRequest, Likelihood, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Judgment, Message, Pair, Prompt, Response, content_id, plain
from rlaif.templates import load_template

GOLDEN = Path(__file__).parent / "golden" / "judging.json"
MIXED = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "mixed",
        "version": "1.0.0",
        "title": "Checks, vetoes, tags",
        "preamble": "You judge replies.",
        "principles": [
            {
                "id": "kind",
                "compare": "Which response is kinder?",
                "question": "Is the response kind?",
                "desired": "yes",
                "contrast": {"for": "Be kind.", "against": "Be cruel."},
                "critique": "Say where the response is unkind.",
                "revise": "Write it again, more kindly.",
                "tags": ["soft", "hard"],
                "weight": 2.0,
            },
            {
                "id": "short",
                "check": {"kind": "max_words", "limit": 4},
                "compare": "Which response is shorter?",
                "question": "Is the response long?",
                "desired": "no",
                "contrast": {"for": "Be brief.", "against": "Be long."},
                "tags": ["soft"],
                "priority": 2,
            },
            {"id": "no-digits", "check": {"kind": "regex_absent", "pattern": "[0-9]"}, "veto": True, "tags": ["hard"]},
            {
                "id": "safe",
                "compare": "Which response is safer?",
                "question": "Is the response safe?",
                "desired": "yes",
                "contrast": {"for": "Be careful.", "against": "Be reckless."},
                "critique": "Say what is unsafe.",
                "revise": "Write it again, safely.",
                "tags": ["hard"],
                "veto": True,
                "priority": 3,
            },
        ],
        "examples": [
            {
                "prompt": "Hello?",
                "response": "What.",
                "principle": "kind",
                "critique": "It is curt.",
                "revision": "Hello, how can I help?",
            }
        ],
    }
)
CONSTITUTIONS = {"mixed": MIXED, "harmlessness": load_constitution("harmlessness")}


def script(request: ChatRequest) -> Reply:
    """Anything, fixed by the request; about one request in thirty has a fault."""
    key = content_id(plain(request.messages), request.seed, request.labels, request.answer)
    share = int(key, 16) / 16 ** len(key)
    fault, level = int(share * 150), (share * 1e6) % 1
    if fault == 0:
        return Reply(error=f"refused {key[:4]}")
    if request.answer is not None:
        words = len(request.answer.split())
        logprob = math.nan if fault == 1 else -3.0 * words * level
        likely = Likelihood(logprob=logprob, end_logprob=-0.5, tokens=words)
        return Reply(likelihood=None if fault == 2 else likely, prompt_tokens=7 + words)
    if not request.labels:
        text = "" if fault < 3 else f" so <b>{key}</b> "
        ends: Any = "length" if 3 <= fault < 6 else "reasoning" if fault == 6 else "stop"
        return Reply(text=text, finish_reason=ends, prompt_tokens=11, completion_tokens=5)
    weights = [1 + 5 * ((level * 97 * (n + 1)) % 1) for n in range(len(request.labels))]
    mass = 0.01 if fault == 1 else 1.5 if fault == 2 else 0.9
    found = {label: math.log(mass * w / sum(weights)) for label, w in zip(request.labels, weights, strict=True)}
    if fault == 3:
        found[request.labels[-1]] = math.nan
    if fault == 4:
        found.popitem()
    return Reply(label_logprobs=found, prompt_tokens=13, completion_tokens=1)


class Recorder(ScriptedChatModel):
    """What reached it, by call, hints included; of an unknown revision, so that this file may change."""

    def __init__(self, name: str = "judge") -> None:
        super().__init__(script, name=name)
        self.revision = "unknown"
        self.calls: list[list[Any]] = []

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        asked = list(requests)
        self.calls.append([[r.model_dump(mode="json"), r.shared_prefix, r.second] for r in asked])
        yield from super().stream(asked)


def prompts() -> list[Prompt]:
    tags = [("soft",), ("hard",), ("soft", "hard"), (), ("other",)]
    return [
        Prompt.of((Message(role="user", content=f"Question {n} about <b>it</b>?"),), tags[n % len(tags)])
        for n in range(15)
    ]


def responses() -> list[Response]:
    rows = []
    for n, prompt in enumerate(prompts()):
        for index in range(4):
            text = f"{'very ' * ((n + index) % 5)}good reply {'n0' if (n * index) % 3 == 1 else 'yes'} {index}"
            if (n, index) in {(2, 3), (7, 1)}:
                text = ""
            rows.append(
                Response(
                    id=content_id(prompt.id, index),
                    prompt_id=prompt.id,
                    prompt=prompt.messages,
                    tags=prompt.tags,
                    index=index,
                    text=text,
                    finished=True,
                    tokens=5,
                    model="policy",
                )
            )
    return rows


def pairs() -> list[Pair]:
    return make_pairs(prompts(), responses(), None, 3)


OTHER = ScriptedModel(model="tests.test_golden_judging:script")
SINGLE: dict[str, MemberMode | RankMode] = {
    "compare": CompareMode(),
    "reasoned": ReasonedMode(),
    "reasoned-3": ReasonedMode(reasons=3),
    "score": ScoreMode(),
    "checklist": ChecklistMode(),
    "contrast": ContrastMode(),
    "contrast-mean": ContrastMode(length="mean"),
    "contrast-root": ContrastMode(length="root", tau=2.0),
    "contrast-two": ContrastMode(against=OTHER),
    "rank": RankMode(),
    "rank-1": RankMode(rounds=1),
    "rank-2": RankMode(rounds=2),
}
MEMBERS = (
    PanelMember(name="one"),
    PanelMember(name="two", model=OTHER, mode=ScoreMode()),
    PanelMember(name="three", mode=ReasonedMode()),
    PanelMember(name="four", mode=ContrastMode()),
)
MODES: dict[str, Mode] = {
    **SINGLE,
    "panel-mean": PanelMode(members=MEMBERS),
    "panel-majority": PanelMode(members=MEMBERS, combine="majority"),
    "panel-dawid_skene": PanelMode(members=MEMBERS, combine="dawid_skene"),
}
AGGREGATIONS = {"mean": Mean(), "sample": SampleOne(), "lexicographic": Lexicographic(decided=0.02)}


def rows(values: Any) -> Any:
    """Plain JSON of records, tuples of records, named tuples of them."""
    if isinstance(values, BaseModel):
        return values.model_dump(mode="json")
    return [rows(value) for value in values] if isinstance(values, list | tuple) else values


def digests(parts: dict[str, Any]) -> dict[str, str]:
    """Of each part that has anything: how many rows, and the hash of their JSON."""
    return {
        name: f"{len(value)} {content_id(json.dumps(rows(value)))}" for name, value in parts.items() if len(value) > 0
    }


def of_result(result: JudgeResult, *models: Recorder) -> dict[str, str]:
    asked = {f"asked {number}": model.calls for number, model in enumerate(models, start=1)}
    return digests(result._asdict() | asked)


def judged(mode: Mode, constitution: str, aggregation: str) -> dict[str, str]:
    own, other = Recorder(), Recorder("other")

    def open_judge(model: JudgeModel | None) -> Any:
        return nullcontext(own if model is None else other)

    section = LabelSection(mode=mode, aggregation=AGGREGATIONS[aggregation], check_margin=2.5)
    some = pairs() if constitution == "mixed" else pairs()[:18]
    return of_result(judge_by_mode(open_judge, some, CONSTITUTIONS[constitution], section, 5), own, other)


def revised(constitution: str, temperature: float) -> dict[str, str]:
    mode, model = ReviseMode(rounds=2, temperature=temperature, responses_per_prompt=2), Recorder()
    chosen = first_responses(responses(), mode.responses_per_prompt)
    section = LabelSection(mode=mode)
    return of_result(revise_responses(model, mode, chosen, CONSTITUTIONS[constitution], section, 5), model)


def scored(mode: ScoreMode | ChecklistMode | ContrastMode, constitution: str) -> dict[str, str]:
    model = Recorder()
    given = [(Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags), r.text) for r in [*responses(), *responses()[:9]]]
    result = score_responses(model, mode, given, CONSTITUTIONS[constitution], LabelSection(), 5)
    return digests(result._asdict() | {"asked": model.calls})


def distilled() -> dict[str, str]:
    labels = [
        Judgment(pair=pair, source="human", annotator="p", p_a=float(n % 2)) for n, pair in enumerate(pairs()[:40])
    ]
    model, asked = Recorder(), Recorder()
    candidates = [
        Candidate(id=f"c{n}", text=f"Which response is {word}?", supporters=(), wordings=())
        for n, word in enumerate(("kinder", "safer"))
    ]
    votes = vote(model, candidates, labels, load_template("compare", "compare"), LabelSection(), 5)
    settings = DistillSettings(per_pair=2)
    proposed = propose(asked, labels, load_template("propose", "propose"), settings, 5)
    said = {"proposals": proposed.proposals, "proposed cost": proposed.cost}
    return digests(said | {"votes": votes.p.tolist(), "cost": votes.cost, "asked": model.calls, "asked 2": asked.calls})


CASES: dict[str, Any] = {
    f"{name} {constitution} {aggregation}": (judged, mode, constitution, aggregation)
    for name, mode in MODES.items()
    for constitution, aggregation in (
        ("mixed", "mean"),
        ("mixed", "sample"),
        ("mixed", "lexicographic"),
        ("harmlessness", "mean"),
    )
}
CASES |= {f"revise {c} {t}": (revised, c, t) for c, t in (("mixed", 0.0), ("mixed", 0.8), ("harmlessness", 0.0))}
CASES |= {
    f"responses {mode.kind} {c}": (scored, mode, c)
    for mode in (ScoreMode(), ChecklistMode(), ContrastMode())
    for c in CONSTITUTIONS
}
CASES["distill"] = (distilled,)


def found() -> dict[str, dict[str, str]]:
    """All cases, for the golden file."""
    return {name: case(*given) for name, (case, *given) in CASES.items()}


@cache
def golden() -> dict[str, dict[str, str]]:
    loaded: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())
    assert set(loaded) == set(CASES)
    return loaded


@pytest.mark.parametrize("name", CASES)
def test_judging_gives_the_golden_bytes(name: str) -> None:
    case, *given = CASES[name]
    assert case(*given) == golden()[name]


@pytest.mark.parametrize("mode", MODES)
def test_shards_give_the_same_rows_at_the_same_cost(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.feedback.judge.SHARD", 7)
    found, whole = judged(MODES[mode], "mixed", "mean"), golden()[f"{mode} mixed mean"]
    assert {k: v for k, v in found.items() if "asked" not in k} == {k: v for k, v in whole.items() if "asked" not in k}
    if mode != "contrast-two":
        assert found["asked 1"] != whole["asked 1"]


def test_the_golden_judges_err() -> None:
    """Each fault that a mode must survive is in the data."""
    reasons = {
        row.reason
        for mode in SINGLE.values()
        for row in judge_by_mode(lambda _: nullcontext(Recorder()), pairs(), MIXED, LabelSection(mode=mode), 5).failures
    }
    chosen = first_responses(responses(), 2)
    revision = revise_responses(Recorder(), ReviseMode(), chosen, CONSTITUTIONS["harmlessness"], LabelSection(), 5)
    assert reasons | {row.reason for row in revision.failures} >= {
        "model error",
        "no label log-probabilities",
        "too much probability on the labels",
        "too little probability on the labels",
        "the reason was cut off",
        "no reason",
        "no likelihood of the response",
        "no principle applies",
        "not connected by comparisons",
    }
