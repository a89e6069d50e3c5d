"""What scores a rollout: every source by its definition, sums and vetoes, and the judge that stays open and cached."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.judging import ChecklistMode, ScoreMode
from rlaif.config.models import ScriptedModel
from rlaif.config.reward import RewardSection
from rlaif.config.scoring import (
    ChecksScore,
    EnsembleScore,
    HeldoutJudge,
    JudgeScore,
    LengthScore,
    ModelScore,
    Part,
    SumScore,
    Veto,
)
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, ModelError
from rlaif.models.cache import CachedModel
from rlaif.models.engine import ChatRequest
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.pipeline import run_recipe
from rlaif.records import Message, Pair, Prompt
from rlaif.rewards.model import FolderReward, score_pairs
from rlaif.rewards.open import Shop, open_reward, open_rewards
from rlaif.rewards.sources import checks, vetoes
from rlaif.run_folder import Run
from rlaif.stages.optimise import optimise
from rlaif.stages.stage import asking
from rlaif.testing import LABEL_MASS, letters, small_recipe, tiny_tokenizer
from rlaif.training.optimise.rewards import Rewards
from rlaif.training.optimise.rollout import _score
from rlaif.training.reward.ensemble import RewardModels
from tests.scripted_judge import RESPONSE
from tests.tiny_training import TextReward, random_rows, tiny_method, tiny_scalar

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: scored
version: 1.0.0
title: For scores
principles:
  - id: kind
    compare: Which response is kinder?
    question: Is the response kind?
    desired: "yes"
    weight: 3
  - {id: short, check: {kind: max_words, limit: 3}, weight: 3}
  - {id: no-digits, check: {kind: regex_absent, pattern: '[0-9]'}, veto: true}
  - {id: hello, check: {kind: starts_with, text: Hello}, tags: [greet], weight: 2}
  - {id: calm, check: {kind: regex_absent, pattern: '!'}, tags: [loud], veto: true}
"""


@pytest.fixture
def constitution(tmp_path: Path) -> Any:
    (tmp_path / "scored.yaml").write_text(CONSTITUTION)
    return load_constitution(str(tmp_path / "scored.yaml"))


def asked(text: str, *tags: str) -> Prompt:
    return Prompt.of((Message(role="user", content=text),), tags)


# ------------------------------------------------------------------------------------------- checks and vetoes


def test_checks_give_the_weighted_share_of_those_that_apply(constitution: Any) -> None:
    score = checks(constitution).score
    plain, greeting = asked("a"), asked("b", "greet")
    texts = ["one two", "one 2", "one two three four 5", "Hello you", "Hello you and you"]
    assert score([plain, plain, plain, greeting, greeting], texts) == [1.0, 0.75, 0.0, 1.0, 0.5]
    chosen = checks(constitution, ("hello",)).score
    assert chosen([plain, greeting, greeting], ["x", "Hello", "x"]) == [None, 1.0, 0.0]


@pytest.mark.parametrize("name", ["kind", "helo"])
def test_checks_by_principles_that_are_not_there_are_refused(name: str, constitution: Any) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is no such principle"):
        checks(constitution, (name,))


def test_a_veto_strikes_where_an_absolute_check_fails(constitution: Any, tmp_path: Path) -> None:
    strike = vetoes(constitution).score
    plain, loud = asked("a"), asked("b", "loud")
    assert strike([plain, plain, plain, loud], ["so much text here", "4", "!", "!"]) == [1.0, 0.0, 1.0, 0.0]
    (tmp_path / "none.yaml").write_text(CONSTITUTION.replace(", veto: true", ""))
    with pytest.raises(ConfigError, match=r"^optimise.veto: constitution 'scored' has no principle"):
        vetoes(load_constitution(str(tmp_path / "none.yaml")))


# ------------------------------------------------------------------------------------------------- sources


class Fake:
    """A reward model of two members: the number of response tokens, and twice the first token."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.members = [
            SimpleNamespace(reference=3.0, score_all=self.length),
            SimpleNamespace(reference=0.0, score_all=lambda rows, _: torch.tensor([2.0 * r.response[0] for r in rows])),
        ]

    def length(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        self.rows += rows
        return torch.tensor([float(len(r.response)) for r in rows])


def shop(model: Any = None, text: Any = None) -> Shop:
    return Shop(lambda head: model.members, tiny_tokenizer, 60, lambda source: TextReward(text))


ROWS = random_rows(0, prompts=4, responses=2)
SOMEONE = [asked("a")] * len(ROWS)
TEXTS = [f"text {i}" for i in range(len(ROWS))]
LENGTHS = [len(row.response) for row in ROWS]
FIRSTS = [row.response[0] for row in ROWS]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (ModelScore(), lambda n, first: (n - 1 + 2 * first) / 2),
        (EnsembleScore(reduce="mean"), lambda n, first: (n - 1 + 2 * first) / 2),
        (EnsembleScore(reduce="min"), lambda n, first: min(n - 1, 2 * first)),
        (
            EnsembleScore(reduce="mean_minus_variance", penalty=0.1),
            lambda n, first: (n - 1 + 2 * first) / 2 - 0.1 * ((n - 1 - 2 * first) / 2) ** 2,
        ),
        (LengthScore(per=4), lambda n, first: n / 4),
    ],
)
def test_a_source_scores_by_its_definition(source: Any, expected: Any) -> None:
    """The reward model reads every response with its end, so it sees two tokens more here, and three less count."""
    model = Fake()
    score_B = open_reward(source, shop(model)).measure(SOMEONE, TEXTS, ROWS).values
    assert score_B == pytest.approx([float(expected(*p)) for p in zip(LENGTHS, FIRSTS, strict=True)])
    assert len(model.rows) == (0 if isinstance(source, LengthScore) else len(ROWS))


def test_a_sum_weighs_its_parts_and_has_no_score_where_one_has_none() -> None:
    values = [0.5, None, *[1.0] * (len(ROWS) - 2)]
    source = SumScore(
        parts=(
            Part(source=LengthScore(per=1), weight=2.0),
            Part(source=ChecksScore(), weight=-1.0),
            Part(source=LengthScore(per=10)),
        )
    )
    scored = open_reward(source, shop(text=lambda prompts, texts: values)).measure(SOMEONE, TEXTS, ROWS)
    assert list(scored.parts) == ["length", "checks", "length_2"]
    assert [value is None for value in scored.values] == [value is None for value in values]
    assert scored.values[0] == pytest.approx(2.1 * LENGTHS[0] - 0.5)


def test_a_veto_overrides_the_score() -> None:
    section = tiny_method("rloo", scoring=LengthScore(per=1), veto=Veto(score=-7.0))
    struck = [0.0, *[1.0] * (len(ROWS) - 1)]
    rewards = Rewards.of(section, lambda source: open_reward(source, shop(text=lambda p, t: struck)))
    scores = _score(rewards, section, SOMEONE, TEXTS, ROWS)
    assert scores.score_B.tolist() == [-7.0, *map(float, LENGTHS[1:])]
    assert scores.parts["vetoed"].tolist() == [1.0, *[0.0] * (len(ROWS) - 1)]


# --------------------------------------------------------------------------------------------------- the judge

QUESTIONS: list[str] = []


def rates_letters(request: ChatRequest) -> dict[str, float]:
    """More letters, a higher rating and a surer yes; no answer at all to a text with `#`."""
    [text] = RESPONSE.findall(request.messages[-1].content)
    QUESTIONS.append(text)
    share = min(max(letters(text) / 10, 0.1), 0.9)
    many = len(request.labels) == 10
    weights = [math.exp((share - 0.5) * n) for n in range(10)] if many else [share, 1 - share, 0.0001]
    mass = 1e-9 if "#" in text else LABEL_MASS
    return {label: math.log(mass * w / sum(weights)) for label, w in zip(request.labels, weights, strict=True)}


def judged_recipe(folder: Path, model: str = "none", **changes: Any) -> Any:
    (folder / "scored.yaml").write_text(CONSTITUTION)
    changes = {"judge": {"backend": "scripted", "model": "tests.test_scoring:rates_letters"}} | changes
    return small_recipe(folder, model, prompts=40, **changes).model_copy(
        update={"constitution": str(folder / "scored.yaml")}
    )


@pytest.mark.parametrize("mode", [ScoreMode(), ChecklistMode()])
def test_the_judge_scores_from_minus_one_to_one_and_a_failure_is_none(mode: Any, tmp_path: Path) -> None:
    recipe = judged_recipe(tmp_path)
    QUESTIONS.clear()
    run = Run(tmp_path / "run")
    with open_rewards(recipe, lambda judge: asking(judge, run), lambda head: [], 60) as opened:
        score = opened(JudgeScore(mode=mode)).score
        low, high, none, worst = score([asked("a")] * 4, ["a", "abcdefghij", "#b", "4"])
        again = score([asked("a")] * 2, ["a", "abcdefghij"])
    assert none is None
    assert low is not None
    assert high is not None
    assert worst == -1.0  # the constitution's own veto
    assert -1 < low < high < 1
    assert again == [low, high]
    assert sorted(QUESTIONS) == ["#b", "4", "a", "abcdefghij"]  # the second time the cache answered


def test_judges_are_opened_once_and_closed_at_the_end(tmp_path: Path) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Chat:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __enter__(self) -> Chat:
            opened.append(self.model.model)
            return self

        def __exit__(self, *_: object) -> None:
            closed.append(self.model.model)

    other = ScriptedModel(model="other:judge")
    with open_rewards(judged_recipe(tmp_path), Chat, lambda head: [], 60) as text:
        for source in (JudgeScore(), JudgeScore(mode=ChecklistMode()), JudgeScore(model=other), ChecksScore(), Veto()):
            text(source)
        assert opened == ["tests.test_scoring:rates_letters", "other:judge"]
        assert closed == []
    assert sorted(closed) == sorted(opened)


@pytest.mark.parametrize("kind", ["rloo", "ppo"])
def test_the_stage_learns_from_the_judge_without_a_reward_model(kind: str, tiny_folder: str, tmp_path: Path) -> None:
    """Direct RLAIF (arXiv 2309.00267): judge, checks and a held-out source; a killed run hears the same replies."""
    settings: dict[str, Any] = {
        "kind": kind,
        "steps": 2,
        "rollouts_per_step": 8,
        "responses_per_prompt": 4,
        "minibatch_size": 8,
        "max_tokens": 6,
        "epochs": 1,
        "scoring": {"kind": "sum", "parts": [{"source": {"kind": "judge"}}, {"source": {"kind": "checks"}}]},
        "veto": {"score": -2.0},
        "gold": HeldoutJudge(source=ChecksScore(), every=1, responses=4).model_dump(),
    }
    recipe = judged_recipe(tmp_path, tiny_folder, optimise=settings)
    assert not recipe.optimise.reads_reward_model
    runs = []
    for name in ("a", "b"):
        run = Run(tmp_path / name)
        run.folder.mkdir()
        QUESTIONS.clear()
        facts = optimise(recipe, run)
        calls = {"judge_calls": 16, "prompt_tokens": 0, "completion_tokens": 0}
        assert facts == {"steps": 2, "rollouts": 16} | calls
        assert (run.policy / "model.safetensors").exists()
        runs.append(run.read_metrics("optimise"))
        assert bool(QUESTIONS) is (name == "a")
    assert runs[0] == runs[1]
    for row in runs[0]:
        assert {"score/judge", "score/checks", "score/vetoed", "gold", "unscored"} <= row.keys()
        assert row["asked/judge_calls"] == 8
        assert ("explained_variance" in row) is (kind == "ppo")


JUDGED: dict[str, Any] = {"kind": "judge"}
BOTH = {"kind": "sum", "parts": [{"source": JUDGED}, {"source": JUDGED | {"mode": {"kind": "checklist"}}}]}
LITTLE = {"steps": 2, "rollouts_per_step": 8, "responses_per_prompt": 4, "minibatch_size": 8, "max_tokens": 6}


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "rloo", **LITTLE, "scoring": BOTH, "gold": {"source": JUDGED, "every": 1, "responses": 4}},
        {"kind": "best_of_n", "n": 2, "scoring": JUDGED},
        {"kind": "decode", "trials": 2, "prompts": 4, "responses_per_prompt": 2, "scoring": JUDGED},
    ],
    ids=lambda method: method["kind"],
)
def test_a_run_counts_every_call_of_its_judge_wherever_it_is_asked(
    method: dict[str, Any], tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels are checks alone; the score, what is held out, the tricks and the comparison ask."""
    seen, real = Counter[str](), CachedModel.stream

    def stream(self: CachedModel, requests: Any) -> Any:
        for number, reply in real(self, requests):
            seen[self.name] += 1
            yield number, reply

    monkeypatch.setattr(CachedModel, "stream", stream)
    hacking = {"responses": 4, **({"source": JUDGED} if method["kind"] == "rloo" else {})}
    recipe = judged_recipe(
        tmp_path,
        tiny_folder,
        optimise=method,
        label={"mode": {"kind": "score"}, "max_failures": 1.0},
        prompts__heldout=8,
        evaluate={"hacking": hacking, "bootstrap_samples": 20, "prompts": 4, "responses_per_prompt": 1},
    )
    run = Run(tmp_path / "run")
    run_recipe(recipe, run.folder)
    marks = run.read_manifest()["stages"]
    cost = json.loads(run.evaluation.read_text())["cost"]
    assert cost["judge_calls"] == seen["tests.test_scoring:rates_letters"] > 40
    assert bool(marks["optimise"].get("judge_calls")) is (method["kind"] != "best_of_n")
    assert marks["evaluate"]["judge_calls"] > 8


# ------------------------------------------------------------------------------------- texts without their tokens


def test_a_text_is_worth_the_same_with_and_without_its_tokens(tiny_folder: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_scalar(tiny_folder)
    model.reference = 0.25
    model.save(tmp_path / "reward_model", tokenizer)
    prompts, texts = [asked("Hi"), asked("Hi"), asked("Why?")], ["abc", "much longer than that", "So."]
    rows = [
        Row(tuple(encode_prompt(tokenizer, p.messages)), tuple(encode_response(tokenizer, text)))
        for p, text in zip(prompts, texts, strict=True)
    ]
    own = Shop(RewardModels(tmp_path / "reward_model", torch.float32), lambda: tokenizer, 60, None)
    both = SumScore(parts=(Part(source=ModelScore()), Part(source=LengthScore(per=3), weight=-2.0)))
    for source in (ModelScore(), LengthScore(per=3), EnsembleScore(reduce="min"), both):
        reward = open_reward(source, own)
        assert reward.score(prompts, texts) == pytest.approx(reward.measure(prompts, texts, rows).values, abs=1e-5)
    folder = FolderReward(tmp_path / "reward_model", torch.float32, 60)
    assert folder.score(prompts, texts) == pytest.approx(open_reward(ModelScore(), own).score(prompts, texts), abs=1e-5)


def test_what_the_reward_model_cannot_read_has_no_score(tiny_folder: str, tmp_path: Path) -> None:
    tiny_scalar(tiny_folder).save(tmp_path, tiny_tokenizer())
    prompts, texts = [asked("Hi")] * 3, ["abc", "x" * 3000, "half of a pair \ud800"]
    reward = FolderReward(tmp_path, torch.float32, 60)
    first, long, broken = reward.score(prompts, texts)
    assert isinstance(first, float) and long is None and broken is None
    assert "the reward model reads at most 2048" in str(reward.encoded(prompts, texts)[1])
    assert isinstance(reward.encoded(prompts, texts)[2], str)
    cut = FolderReward(tmp_path, torch.float32, 60, max_length=50)
    assert [value is None for value in cut.score(prompts, texts)] == [False, False, True]
    pairs = [Pair.of(asked("Hi"), "abc", "abd")]
    margins = score_pairs(tmp_path, RewardSection(), "float32", pairs)
    a, b = reward.score([asked("Hi")] * 2, ["abc", "abd"])
    assert margins == {pairs[0].id: pytest.approx(a - b, abs=1e-5)}
    with pytest.raises(ModelError, match=r"^pair [0-9a-f]{16}: "):
        score_pairs(tmp_path, RewardSection(), "float32", [Pair.of(asked("Hi"), "abc", texts[2])])
