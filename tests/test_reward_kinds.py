"""What a reward model learns by each kind of loss: planted preferences, ties, ratings, and each principle's own labels.

Losses themselves are tested in test_losses_preference.py; here is the loop that uses them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from rlaif import stages
from rlaif.config.reward import RewardSection
from rlaif.errors import ConfigError, DataError, TrainingError
from rlaif.evaluation.reward_worth import rating_error, reward_worth
from rlaif.jsonl import read_objects, write_jsonl
from rlaif.models.local.packing import Row
from rlaif.records import Judgment, Message, Pair, Preference, PrincipleJudgment, Prompt, Score
from rlaif.run_folder import Run
from rlaif.stats import Bootstrap
from rlaif.testing import tiny_tokenizer
from rlaif.training import parallel
from rlaif.training.lessons import Lesson
from rlaif.training.lora import trainable
from rlaif.training.reward.data import encode_pairs, pair_lessons, principle_labels, rating_lessons
from rlaif.training.reward.ensemble import load_members
from rlaif.training.reward.train import RewardStage, learn, set_reference, train
from rlaif.training.reward.worth import score_heldout
from rlaif.training.scalar_model import ScalarModel
from tests.audited import ORIGIN
from tests.tiny_training import (
    LORA,
    planted,
    preference,
    random_rows,
    reward_section,
    tiny_recipe,
    tiny_scalar,
    tiny_tracker,
)

TOKENIZER = tiny_tokenizer()


def stage_of(folder: str, seed: int = 1, **changes: Any) -> RewardStage:
    return RewardStage(tiny_scalar(folder, seed), TOKENIZER, reward_section(**changes), seed)


def trained(stage: RewardStage, lessons: Sequence[Lesson], run: Path) -> list[dict[str, Any]]:
    tracker = tiny_tracker(run, "reward")
    train(stage, lessons, run / "checkpoints", tracker)
    return tracker._run.read_metrics("reward")


def margins(model: ScalarModel, preferences: Sequence[Preference]) -> torch.Tensor:
    pairs = encode_pairs(TOKENIZER, preferences, 1000)
    chosen, rejected = (model.score_all([getattr(p, side) for p in pairs], 10_000) for side in ("chosen", "rejected"))
    return chosen - rejected


def accuracy(model: ScalarModel, preferences: Sequence[Preference]) -> float:
    return float((margins(model, [p for p in preferences if p.split == "heldout"]) > 0).float().mean())


# ---------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "bradley_terry", "label_smoothing": 0.1, "margin": 1.0},
        {"kind": "rao_kupper", "theta": 1.5},
        {"kind": "davidson", "nu": 0.5},
    ],
)
def test_each_loss_of_pairs_learns_a_planted_preference(loss: Any, shallow_folder: str, tmp_path: Path) -> None:
    preferences = planted(160)
    stage = stage_of(shallow_folder, loss=loss, epochs=3)
    with torch.no_grad():
        stage.model.head.weight.neg_()  # this head happens to be right before it has learnt
    before = accuracy(stage.model, preferences)
    rows = trained(stage, pair_lessons(TOKENIZER, preferences, stage.section), tmp_path)
    assert before < 0.4 and accuracy(stage.model, preferences) > 0.85
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


# Two prompts; soft labels, weights, a tie at 0.55 and one at exactly even.
SOFT = [
    preference("Hi", "good", "bad one", p_chosen=0.8, weight=2.0),
    preference("Hi", "good", "same", p_chosen=0.55, weight=0.5),
    preference("Hi", "same", "bad one", p_chosen=0.5),
    preference("Why is it so?", "because", "no", p_chosen=0.65, weight=1.5),
    preference("Why is it so?", "because", "same", p_chosen=0.9),
]
PAIR_LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"loss": {"kind": "bradley_terry", "label_smoothing": 0.2}},
    "margin": {"loss": {"kind": "bradley_terry", "margin": 1.5}},
    "by prompt": {"pair_weighting": "prompt"},
    "rao_kupper": {"loss": {"kind": "rao_kupper", "theta": 3.0}},
    "davidson": {"loss": {"kind": "davidson", "nu": 2.0}},
}


def by_definition(kind: str, d: torch.Tensor, p: float) -> torch.Tensor:
    """One pair's loss, unweighted, from the words of its definition."""
    tie = p < 0.551
    if kind == "smoothed":
        p = 0.8 * p + 0.2 * (1 - p)
    if kind == "rao_kupper":
        a, b = d.exp(), torch.ones(())
        win, loss = a / (a + 3 * b), b / (b + 3 * a)
        return -(1 - win - loss).log() if tie else -p * win.log() - (1 - p) * loss.log()
    if kind == "davidson":
        a, b = d.exp(), torch.ones(())
        whole = a + b + 2 * (a * b).sqrt()
        found = 2 * (a * b).sqrt() / whole
        return -found.log() if tie else -p * (a / whole).log() - (1 - p) * (b / whole).log()
    m = 1.5 * (2 * p - 1) if kind == "margin" else 0.0
    return -p * torch.sigmoid(d - m).log() - (1 - p) * torch.sigmoid(-d - m).log()


@pytest.mark.parametrize("max_tokens", [1, 10_000])
@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_loss_and_gradient_of_a_minibatch_are_those_of_the_definition(
    kind: str, max_tokens: int, shallow_folder: str
) -> None:
    stage = stage_of(shallow_folder, microbatch_tokens=max_tokens, **PAIR_LOSSES[kind])
    found = learn(stage.model, pair_lessons(TOKENIZER, SOFT, stage.section, tie_margin=0.05), stage.section, "here")
    plain = tiny_scalar(shallow_folder)
    scores = {}
    for p in SOFT:
        for row in encode_pairs(TOKENIZER, [p], 1000)[0][1:]:
            scores[p.prompt_id, row.response] = plain.scores([row])[0]
    weights, terms = [], []
    for p in SOFT:
        pair = encode_pairs(TOKENIZER, [p], 1000)[0]
        d = scores[p.prompt_id, pair.chosen.response] - scores[p.prompt_id, pair.rejected.response]
        of_prompt = sum(other.prompt_id == p.prompt_id for other in SOFT)
        weights.append(p.weight / of_prompt if kind == "by prompt" else p.weight)
        terms.append(weights[-1] * by_definition(kind, d, p.p_chosen))
    expected = torch.stack(terms).sum() / sum(weights)
    expected.backward()
    assert found["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)
    ours, theirs = (torch.cat([p.grad.flatten() for p in m.model.parameters()]) for m in (stage.model, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])  # so that the turn which does not count is once right, once wrong
def test_two_processes_find_the_loss_and_the_gradient_of_one(
    sign: int, shallow_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process's part, added up by hand; with three microbatches the second has a turn that does not count."""
    more = [*SOFT, preference("Third?", "yes, certainly", "no", p_chosen=0.7)]
    section = reward_section(microbatch_tokens=1, principle_heads=True)
    lessons = [
        lesson._replace(by_principle={"x": 0.9} | ({"y": 0.2} if place % 2 else {}))
        for place, lesson in enumerate(pair_lessons(TOKENIZER, more, section))
    ]

    def computed(rank: int, size: int) -> tuple[dict[str, float], torch.Tensor]:
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        monkeypatch.setattr(parallel, "size", lambda: size)
        monkeypatch.setattr(parallel, "add_up", lambda tensor: tensor)
        model = with_heads(tiny_scalar(shallow_folder), ("x", "y"))
        with torch.no_grad():
            model.head.weight.mul_(sign)
        row = learn(model, lessons, section, "here")
        parameters = trainable(model.backbone, model.head, model.heads).values()
        return row, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])

    (whole, gradient), (one, first), (two, second) = computed(0, 1), computed(0, 2), computed(1, 2)
    assert whole == {key: pytest.approx(one[key] + two[key], abs=1e-6) for key in whole}
    assert 0 < one["loss"] < whole["loss"]
    torch.testing.assert_close(first + second, gradient, atol=1e-6, rtol=1e-5)


def with_heads(model: ScalarModel, names: tuple[str, ...]) -> ScalarModel:
    from rlaif.training.scalar_model import Heads

    model.heads = Heads.new(names, model.head.weight.shape[1], seed=4)
    return model


def test_a_loss_that_is_not_finite_names_its_pairs(shallow_folder: str) -> None:
    stage = stage_of(shallow_folder, microbatch_tokens=1)
    lessons = pair_lessons(TOKENIZER, SOFT, stage.section)
    bad = lessons[3]._replace(target=float("nan"))
    with pytest.raises(TrainingError, match=rf"^step 7, pairs \['{bad.id}', '{lessons[4].id}'\]: the loss is nan"):
        learn(stage.model, [*lessons[:3], bad, lessons[4]], stage.section, "step 7")


# -------------------------------------------------------------------------------------------------------- ties


def with_ties(count: int) -> list[Preference]:
    """`planted`, and pairs that differ in q, which always stand at a tie whose chosen side is the one with q."""
    rng = random.Random(3)
    ties = []
    for i in range(count):
        text = "".join(rng.choice("abcdefg") for _ in range(7))
        split = "heldout" if i % 4 == 0 else "train"
        ties.append(preference(f"tie {i}", text + "qqq", text + "aaa", p_chosen=0.6, split=split))
    return [*planted(2 * count), *ties]


@pytest.mark.parametrize("loss", [{"kind": "rao_kupper", "theta": 3.0}, {"kind": "davidson", "nu": 2.0}])
def test_ties_pull_margins_to_zero_where_soft_labels_would_not(loss: Any, shallow_folder: str, tmp_path: Path) -> None:
    preferences = with_ties(60)
    ties = [p for p in preferences if p.p_chosen == 0.6 and p.split == "heldout"]
    found = {}
    for name, tie_margin in (("ties", 0.1), ("labels", 0.0)):
        stage = stage_of(shallow_folder, loss=loss, epochs=4)
        trained(stage, pair_lessons(TOKENIZER, preferences, stage.section, tie_margin), tmp_path / name)
        assert accuracy(stage.model, [p for p in preferences if p not in ties]) > 0.85
        found[name] = float(margins(stage.model, ties).mean())
    assert abs(found["ties"]) < 0.35 * found["labels"], found
    assert found["labels"] > 0.15


# ----------------------------------------------------------------------------------------------------- ratings


def score_of(question: str, text: str, value: float, split_id: str | None = None) -> Score:
    found = Prompt.of((Message(role="user", content=question),))
    return Score(
        id=f"{question}/{text}",
        prompt_id=split_id or found.id,
        prompt=found.messages,
        text=text,
        value=value,
        principles=(),
        annotator="j",
        provenance=ORIGIN,
    )


def rated(count: int) -> tuple[list[Score], list[Preference]]:
    """Responses rated by their share of z, and the preferences that follow from the ratings."""
    rng = random.Random(5)
    scores, preferences = [], []
    for i in range(count):
        texts = ["".join(rng.choice("abcdzz") for _ in range(8)) for _ in range(2)]
        values = [2 * text.count("z") / 8 - 1 for text in texts]
        question = f"q{i}"
        better, worse = sorted(texts, key=lambda text: -text.count("z"))
        p = preference(question, better, worse, split="heldout" if i % 4 == 0 else "train")
        scores += [score_of(question, t, v, p.prompt_id) for t, v in zip(texts, values, strict=True)]
        if values[0] != values[1]:
            preferences.append(p)
    return scores, preferences


def test_ratings_are_learnt_from_single_responses(shallow_folder: str, tmp_path: Path) -> None:
    scores, preferences = rated(120)
    stage = stage_of(shallow_folder, loss={"kind": "regression"}, epochs=6, learning_rate=5e-3)
    lessons = rating_lessons(TOKENIZER, scores, preferences, 1000)
    rows = trained(stage, lessons, tmp_path)
    assert "accuracy" not in rows[0] and rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    heldout = [score for score in scores if score.id not in {lesson.id for lesson in lessons}]
    assert len(heldout) >= 40
    said = stage.model.score_all([lesson.rows[0] for lesson in rating_lessons(TOKENIZER, heldout, [], 1000)], 10_000)
    true = torch.tensor([score.value for score in heldout])
    error = F.mse_loss(said, true) / true.var()
    assert float(error) < 0.3
    assert accuracy(stage.model, preferences) > 0.85


def test_ratings_of_a_prompt_whose_preferences_are_held_out_teach_nothing() -> None:
    scores, preferences = rated(40)
    out = {p.prompt_id for p in preferences if p.split == "heldout"}
    lessons = rating_lessons(TOKENIZER, scores, preferences, 1000)
    assert {score.prompt_id for score in scores} & out
    assert not {lesson.prompt_id for lesson in lessons} & out
    assert len(lessons) == sum(score.prompt_id not in out for score in scores)
    assert [lesson.target for lesson in lessons] == [s.value for s in scores if s.prompt_id not in out]
    with pytest.raises(DataError, match="no ratings of training prompts"):
        rating_lessons(TOKENIZER, [s for s in scores if s.prompt_id in out], preferences, 1000)


def test_long_rated_responses_are_cut_as_pairs_are() -> None:
    score = score_of("A question?", "a response of some length", 0.5)
    (lesson,) = rating_lessons(TOKENIZER, [score], [], 20)
    prompt, response = lesson.rows[0]
    assert len(prompt) + len(response) == 20 and TOKENIZER.decode(response) == "a response of some "


# -------------------------------------------------------------------------------------------- principles' heads


def two_minds(count: int) -> tuple[list[Preference], list[Judgment]]:
    """One principle wants more z, the other fewer letters; both together cannot be had from either alone."""
    rng = random.Random(8)
    preferences, judgments = [], []
    for i in range(count):
        question = f"q{i}"
        texts = sorted("".join(rng.choice("abcz") for _ in range(rng.randint(2, 9))) for _ in range(2))
        a, b = texts
        if a.count("z") == b.count("z") or len(a) == len(b):
            continue
        pair = Pair.of(Prompt.of((Message(role="user", content=question),)), a, b)
        more_z, shorter = float(a.count("z") > b.count("z")), float(len(a) < len(b))
        principles = [
            PrincipleJudgment(principle="more-z", checked=False, p_a=0.05 + 0.9 * more_z),
            PrincipleJudgment(principle="brief", checked=False, p_a=0.05 + 0.9 * shorter),
            PrincipleJudgment(principle="counted", checked=True, p_a=1.0),
        ]
        if i % 3 == 0:
            del principles[1]  # does not apply to every pair
        judgments.append(Judgment(pair=pair, source="ai", annotator="j", p_a=0.5, principles=tuple(principles)))
        chosen, rejected = (a, b) if more_z else (b, a)
        split = "heldout" if i % 4 == 0 else "train"
        preferences.append(preference(question, chosen, rejected, pair_id=pair.id, split=split))
    return preferences, judgments


def test_each_head_learns_its_own_principle(shallow_folder: str, tmp_path: Path) -> None:
    preferences, judgments = two_minds(320)
    stage = stage_of(shallow_folder, principle_heads=True, epochs=6, learning_rate=5e-3)
    labels = principle_labels(judgments)
    lessons = pair_lessons(TOKENIZER, preferences, stage.section, labels=labels)
    rows = trained(stage, lessons, tmp_path / "run")
    assert rows[-1]["heads_loss"] < 0.6 * rows[0]["heads_loss"]
    heads = stage.model.heads
    assert heads is not None and heads.names == ("brief", "more-z")
    reference = random_rows(0, prompts=4, responses=2)
    set_reference(stage, reference)
    heldout = score_heldout([stage.model], TOKENIZER, stage.section, preferences, labels)
    own: dict[str, list[bool]] = {"brief": [], "more-z": []}
    crossed: dict[str, list[bool]] = {"brief": [], "more-z": []}
    for row in heldout:
        for name, said in row.heads.items():
            own[name].append((said["margin"] > 0) == (said["p_chosen"] > 0.5))
            other = row.heads.get("brief" if name == "more-z" else "more-z")
            if other:
                crossed[name].append((said["margin"] > 0) == (other["p_chosen"] > 0.5))
    assert len(own["brief"]) < len(own["more-z"]) == len(heldout), "a pair without its label says nothing of a head"
    for name, right in own.items():
        assert sum(right) / len(right) > 0.85, name
        assert sum(crossed[name]) / len(crossed[name]) < 0.75, (name, "has learnt the other one")

    # Saved, read by others, and loaded as the score itself.
    stage.model.save(tmp_path / "saved", TOKENIZER)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1)
    rows_of = [row for pair in encode_pairs(TOKENIZER, preferences[:9], 1000) for row in pair[1:]]
    with torch.no_grad():
        score_BK = stage.model.scores_by_head(rows_of)
        mean_K = stage.model.scores_by_head(reference).mean(0)
    recorded_K = torch.tensor([stage.model.reference, *heads.reference_K])
    torch.testing.assert_close(recorded_K, mean_K, atol=1e-5, rtol=0)
    for place, name in enumerate([None, "brief", "more-z"]):
        [scorer] = load_members(tmp_path / "saved", torch.float32, name)
        torch.testing.assert_close(scorer.score_all(rows_of, 10_000), score_BK[:, place], atol=1e-5, rtol=0)
        critic = scorer.as_critic(LORA, seed=3)
        with torch.no_grad():
            first = [critic.values([Row(row.prompt, (*row.response, 7))])[0, len(row.response)] for row in rows_of[:3]]
        torch.testing.assert_close(torch.stack(first), score_BK[:3, place] - recorded_K[place], atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="has no head 'breif'; did you mean 'brief'"):
        load_members(tmp_path / "saved", torch.float32, "breif")


def test_heads_losses_are_added_with_weight_one_over_their_number(shallow_folder: str) -> None:
    section = reward_section(principle_heads=True)
    labels = [{"x": 0.9, "y": 0.3}, {"x": 0.2}, {}, {"y": 0.6}, {"x": 0.5}]
    lessons = [
        lesson._replace(by_principle=by)
        for lesson, by in zip(pair_lessons(TOKENIZER, SOFT, section), labels, strict=True)
    ]
    model = with_heads(tiny_scalar(shallow_folder), ("x", "y"))
    found = learn(model, lessons, section, "here")
    with torch.no_grad():
        d = [torch.subtract(*model.scores_by_head(list(lesson.rows))) for lesson in lessons]
    expected = 0.0
    for k, name in enumerate(("x", "y"), start=1):
        here = [(float(d[i][k]), by[name], SOFT[i].weight) for i, by in enumerate(labels) if name in by]
        each = [
            w * float(-p * F.logsigmoid(torch.tensor(m)) - (1 - p) * F.logsigmoid(torch.tensor(-m))) for m, p, w in here
        ]
        expected += 0.5 * sum(each) / sum(w for *_, w in here)
    assert found["heads_loss"] == pytest.approx(expected, abs=1e-5)
    assert found["loss"] == pytest.approx(
        learn(tiny_scalar(shallow_folder), lessons, section, "here")["loss"], abs=1e-6
    )


def test_principles_labels_are_turned_with_the_pair_and_checks_are_left_out() -> None:
    preferences, judgments = two_minds(12)
    turned = [
        judgment.model_copy(
            update={
                "pair": judgment.pair.swapped(),
                "principles": tuple(p.model_copy(update={"p_a": 1 - p.p_a}) for p in judgment.principles),
            }
        )
        for judgment in judgments
    ]
    found = [
        [lesson.by_principle for lesson in pair_lessons(TOKENIZER, preferences, reward_section(), labels=labels)]
        for labels in (principle_labels(judgments), principle_labels(turned))
    ]
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other) and "counted" not in one
        assert one["more-z"] == pytest.approx(0.95)  # what the row was chosen by


def test_without_a_judged_principle_there_is_no_head_to_train(shallow_folder: str, tmp_path: Path) -> None:
    stage = stage_of(shallow_folder, principle_heads=True)
    with pytest.raises(DataError, match=r"reward\.principle_heads"):
        trained(stage, pair_lessons(TOKENIZER, SOFT, stage.section), tmp_path)


def test_a_model_without_heads_says_so_when_asked_for_one(shallow_folder: str, tmp_path: Path) -> None:
    tiny_scalar(shallow_folder).save(tmp_path, TOKENIZER)
    with pytest.raises(ConfigError, match=r"reward\.principle_heads=true"):
        load_members(tmp_path, torch.float32, "brief")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"kind": "regression"}, "denoise": {"kind": "flip"}}, "leave out denoise"),
        ({"loss": {"kind": "regression"}, "principle_heads": True}, "leave out principle_heads"),
        ({"loss": {"kind": "regression"}, "pair_weighting": "prompt"}, "leave out pair_weighting"),
        ({"loss": {"kind": "davidson"}, "denoise": {"kind": "margin"}}, "denoise.kind is 'margin'"),
        ({"loss": {"kind": "bradley_terry", "margin": 1}, "denoise": {"kind": "margin"}}, "margin must be 0"),
        ({"ensemble": {"kind": "lora"}, "lora": None}, "reward.lora must be set"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardSection.model_validate(settings)


# --------------------------------------------------------------------------------------------------- the stage


def test_the_stage_reads_principles_from_the_judgments_and_reports_their_heads(
    shallow_folder: str, tmp_path: Path
) -> None:
    preferences, judgments = two_minds(60)
    run = Run(tmp_path)
    write_jsonl(run.preferences, preferences)
    write_jsonl(run.judgments, judgments)
    section = reward_section(principle_heads=True, ensemble={"kind": "independent", "members": 2}, epochs=1)
    stages.reward(tiny_recipe(shallow_folder, reward=section), run)
    rows = [row for _, row in read_objects(run.heldout)]
    scorers = {name: load_members(run.reward_model, torch.float32, name) for name in ("brief", "more-z")}
    heldout = encode_pairs(TOKENIZER, [p for p in preferences if p.split == "heldout"], 1000)
    for row, pair in zip(rows, heldout, strict=True):
        assert len(row["margins"]) == 2
        for name, said in row["heads"].items():
            both = [pair.chosen, pair.rejected]
            chosen, rejected = torch.stack([one.score_all(both, 10_000) for one in scorers[name]]).mean(0).tolist()
            assert said["margin"] == pytest.approx(chosen - rejected, abs=1e-4)
    assert reward_worth(rows, Bootstrap(samples=50))["heads"].keys() == {"brief", "more-z"}


def test_the_stage_reads_ratings_and_measures_on_preferences(shallow_folder: str, tmp_path: Path) -> None:
    scores, preferences = rated(60)
    run = Run(tmp_path)
    write_jsonl(run.preferences, preferences)
    recipe = tiny_recipe(
        shallow_folder, reward=reward_section(loss={"kind": "regression"}, epochs=3), label={"mode": {"kind": "score"}}
    )
    with pytest.raises(ConfigError, match=r"scores\.jsonl: not there yet; run the label stage first"):
        stages.reward(recipe, run)
    write_jsonl(run.scores, scores)
    facts = stages.reward(recipe, run)
    heldout = [p for p in preferences if p.split == "heldout"]
    assert facts["updates"] == 3 * 6, "90 ratings of prompts that are not held out, 16 an update"
    assert facts["heldout_pairs"] == len(heldout) and facts["heldout_correct"] >= 0.7 * len(heldout)
    out = {p.prompt_id for p in heldout}
    said = [row for _, row in read_objects(run.heldout_ratings)]
    assert [(row["id"], row["rating"]) for row in said] == [(s.id, s.value) for s in scores if s.prompt_id in out]
    error = rating_error(said, Bootstrap(samples=50))
    assert error is not None and error["value"] < 0.9 * error["without"]


def test_the_stage_takes_for_ties_what_the_recipe_does(shallow_folder: str, tmp_path: Path) -> None:
    from rlaif.stages.reward import _material

    run = Run(tmp_path)
    write_jsonl(run.preferences, SOFT)
    for tie_margin, ties in ((0.0, [2]), (0.05, [1, 2]), (0.2, [1, 2, 3])):
        recipe = tiny_recipe(shallow_folder, preferences={"ties": "keep", "tie_margin": tie_margin})
        assert [i for i, lesson in enumerate(_material(recipe, run).lessons) if lesson.tie] == ties


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"loss": {"kind": "regression"}}}, "label.mode.kind=score"),
        (
            {
                "reward": {"principle_heads": True},
                "preferences": {"labels": {"kind": "human", "human_data": [{"kind": "file", "path": "x"}]}},
            },
            "preferences.labels.kind is 'human'",
        ),
    ],
)
def test_a_recipe_whose_reward_model_would_find_no_labels_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_recipe("none", **changes)
