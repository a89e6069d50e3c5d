"""Several reward models in one stage: ensembles, the models that look for doubtful labels, a kill at any of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlaif import stages
from rlaif.config import Recipe
from rlaif.digest import hash_path
from rlaif.jsonl import read_objects, write_jsonl
from rlaif.models.local.packing import Row
from rlaif.records import Preference
from rlaif.rewards.model import FolderReward, ModelReward
from rlaif.run_folder import Run
from rlaif.testing import tiny_tokenizer
from rlaif.training.reward import worth
from rlaif.training.reward.data import encode_pairs, pair_lessons
from rlaif.training.reward.ensemble import load_members, member_folders, parts_of
from rlaif.training.reward.worth import treat
from rlaif.training.scalar_model import ScalarModel, as_ended
from rlaif.training.session import Session
from rlaif.training.tracking import Tracker
from tests.tiny_training import LORA, Killed, planted, preference, random_rows, reward_section, tiny_recipe, tiny_scalar

TOKENIZER = tiny_tokenizer()
ROWS = random_rows(0, prompts=3, responses=2)


@pytest.fixture(autouse=True, scope="module")
def no_collecting() -> Iterator[None]:
    """Freeing memory between models would take most of the tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlaif.models.local.load.free_memory", lambda: None)
        yield


def prepared(folder: Path, preferences: Sequence[Preference]) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    write_jsonl(run.preferences, preferences)
    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_objects(path)]


def contents(run: Run) -> dict[str, Any]:
    """All that the stage leaves, checkpoints and TensorBoard aside."""
    names = ("reward_model", "heldout", "strengths", "metrics")
    return {name: hash_path(getattr(run, name)) for name in names}


def plain_scores(model: ScalarModel, rows: Sequence[Row]) -> torch.Tensor:
    return model.score_all(rows, 10_000)


# --------------------------------------------------------------------------------------------------- ensembles


@pytest.fixture(scope="module", params=["lora", "independent"])
def ensemble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shallow_folder: str) -> Run:
    rates = {"lora": 2e-2, "independent": 3e-3}
    section = reward_section(
        lora=LORA, epochs=2, learning_rate=rates[request.param], ensemble={"kind": request.param, "members": 3}
    )
    run = prepared(tmp_path_factory.mktemp("ensemble") / request.param, planted(100))
    stages.reward(tiny_recipe(shallow_folder, reward=section), run)
    return run


def test_an_ensemble_is_read_as_one_scorer_of_several(ensemble: Run) -> None:
    folders = member_folders(ensemble.reward_model)
    assert [folder.name for folder in folders] == ["member-0", "member-1", "member-2"]
    members = [ScalarModel.load(folder, torch.float32) for folder in folders]
    each_MB = torch.stack([plain_scores(member, ROWS) for member in members])
    ended_MB = torch.stack([plain_scores(member, as_ended(ROWS, TOKENIZER)) for member in members])
    scorer = load_members(ensemble.reward_model, torch.float32)
    for raw in (  # whether all are in memory or one at a time
        ModelReward(lambda: scorer, lambda: TOKENIZER, 10_000, centred=False),
        ModelReward(lambda: scorer, lambda: TOKENIZER, 1, centred=False),
        FolderReward(ensemble.reward_model, torch.float32, 10_000, centred=False),
    ):
        ours = torch.tensor(raw.measure([], [], ROWS).values)
        torch.testing.assert_close(ours, ended_MB.mean(0), atol=1e-5, rtol=0)
    assert float(each_MB.std(0).min()) > 1e-3, "members differ"
    for folder in folders:
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    critic = scorer[0].as_critic(LORA, seed=1)
    with torch.no_grad():
        value = critic.values([Row(ROWS[0].prompt, (*ROWS[0].response, 7))])[0, len(ROWS[0].response)]
    assert float(value) == pytest.approx(float(each_MB[0, 0]) - members[0].reference, abs=1e-5)
    again_B = scorer[0].score_all(ROWS, 10_000)
    torch.testing.assert_close(again_B, each_MB[0], atol=1e-5, rtol=0)  # the critic is another


def test_every_member_has_a_reference_score_of_its_own_and_has_learnt(ensemble: Run) -> None:
    preferences = planted(100)
    train = encode_pairs(TOKENIZER, [p for p in preferences if p.split == "train"], 1000)
    reference = list(dict.fromkeys(row for pair in train for row in (pair.chosen, pair.rejected)))
    heldout = rows_of(ensemble.heldout)
    assert len(heldout) == 20
    for number, folder in enumerate(member_folders(ensemble.reward_model)):
        member = ScalarModel.load(folder, torch.float32)
        assert float(plain_scores(member, reference).mean()) == pytest.approx(member.reference, abs=1e-4)
        pairs = encode_pairs(TOKENIZER, [p for p in preferences if p.split == "heldout"], 1000)
        margins = plain_scores(member, [p.chosen for p in pairs]) - plain_scores(member, [p.rejected for p in pairs])
        assert [row["margins"][number] for row in heldout] == pytest.approx(margins.tolist(), abs=1e-4)
        assert float((margins > 0).float().mean()) > 0.8
    for row in heldout:
        assert row["margin"] == pytest.approx(sum(row["margins"]) / 3, abs=1e-5)


def test_the_metrics_count_the_steps_of_all_members_on(ensemble: Run) -> None:
    rows = ensemble.read_metrics("reward")
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert [row["model"] for row in rows] == sorted(row["model"] for row in rows)
    assert {row["model"] for row in rows} == {0, 1, 2}
    first = [next(row["loss"] for row in rows if row["model"] == number) for number in range(3)]
    assert len(set(first)) == 3, "heads and orders of their own"


def test_progress_counts_every_step_of_every_model_once(tmp_path: Path) -> None:
    """The first model goes on from its second step; the other begins where that one ends."""
    advanced: list[int] = []
    tracker = Tracker(Run(tmp_path), "reward", 5, advanced.append, lambda line: None)
    one, two = parts_of(tracker, {"member-0": 2, "member-1": 3}).values()
    for part, done, steps in ((one, 1, 2), (two, 0, 3)):
        part.rewind(done)
        for step in range(done, steps):
            part.log(step, {"loss": 0.0})
    assert sum(advanced) == 5
    rows = Run(tmp_path).read_metrics("reward")
    assert [(row["step"], row["model"]) for row in rows] == [(1, 0), (2, 1), (3, 1), (4, 1)]


def test_a_scorer_of_one_is_the_model_itself(shallow_folder: str, tmp_path: Path) -> None:
    model = tiny_scalar(shallow_folder)
    model.reference = 0.25
    model.save(tmp_path, TOKENIZER)
    [scorer] = load_members(tmp_path, torch.float32)
    torch.testing.assert_close(scorer.score_all(ROWS, 10_000), model.score_all(ROWS, 10_000))


# -------------------------------------------------------------------------------------------------- being killed


KILLS: list[tuple[Any, str, int]] = [
    (Session, "update", 3),  # the first model that measures, a step past its checkpoint
    (Tracker, "log", 2),
    (Session, "save", 1),
    (worth, "strengths", 1),
    (Session, "update", 3),  # the second; its labels are treated, then
    (worth, "treat", 1),
    (Tracker, "log", 4),  # the first member
    (ScalarModel, "save", 1),
    (Path, "rename", 1),
    (Session, "update", 1),  # the second member
    (ScalarModel, "save", 1),
    (Path, "rename", 2),  # the folder of both
]
"""What dies, at its n-th call from where the attempt before has died."""


@pytest.mark.slow
def test_a_stage_of_several_models_killed_at_every_turn_ends_in_the_same_bytes(
    shallow_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = reward_section(
        lora=LORA,
        epochs=1,
        minibatch_size=4,
        checkpoint_every=2,
        ensemble={"members": 2},
        denoise={"kind": "soften", "share": 0.3, "members": 2},
    )
    recipe = tiny_recipe(shallow_folder, reward=section)
    peaceful = prepared(tmp_path / "peaceful", planted(20))
    facts = stages.reward(recipe, peaceful)
    assert facts["updates"] == 16
    update, updates = Session.update, [0]

    def counted(self: Session, *arguments: Any) -> float:
        norm = update(self, *arguments)
        updates[0] += 1
        return norm

    monkeypatch.setattr(Session, "update", counted)
    run = prepared(tmp_path / "killed", planted(20))
    for owner, name, n in KILLS:
        with monkeypatch.context() as patch:
            arm(patch, owner, name, n)
            with pytest.raises(Killed):
                stages.reward(recipe, run)
    assert stages.reward(recipe, run) == facts
    assert contents(run) == contents(peaceful)
    assert len(run.read_metrics("reward")) == 16
    assert updates[0] == 16 + 6, "what was done stays done, but for the steps since a checkpoint"


def arm(patch: pytest.MonkeyPatch, owner: Any, name: str, n: int) -> None:
    """Let it die at its n-th call, before it does anything."""
    original, calls = getattr(owner, name), [0]

    def deadly(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == n:
            raise Killed
        return original(*arguments, **named)

    patch.setattr(owner, name, deadly)


# ------------------------------------------------------------------------------------------------ doubtful labels


def flipped(preferences: Sequence[Preference], every: int) -> tuple[list[Preference], set[str]]:
    """Every so many'th training pair turned round; the ids of those."""
    rows, wrong = [], set()
    for i, p in enumerate(preferences):
        turn = p.split == "train" and i % every == 1
        rows.append(p.model_copy(update={"chosen": p.rejected, "rejected": p.chosen}) if turn else p)
        wrong |= {p.pair_id} if turn else set()
    return rows, wrong


def test_flipping_finds_planted_wrong_labels_and_costs_no_accuracy(shallow_folder: str, tmp_path: Path) -> None:
    preferences, wrong = flipped(planted(200), every=4)
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3}
    right = {}
    for name, treatment in (("keep", {"kind": "keep"}), ("flip", {"kind": "flip", "share": 0.25, "members": 3})):
        run = prepared(tmp_path / name, preferences)
        stages.reward(tiny_recipe(shallow_folder, reward=reward_section(denoise=treatment, **settings)), run)
        heldout = rows_of(run.heldout)
        right[name] = sum(row["margin"] > 0 for row in heldout)
        assert run.strengths.exists() == (name == "flip")
        assert all("margins" not in row for row in heldout)
    strengths = rows_of(run.strengths)
    train = [p for p in preferences if p.split == "train"]
    assert [row["pair_id"] for row in strengths] == [p.pair_id for p in train]
    turned = {row["pair_id"] for row in strengths if row["treated"]}
    assert turned == {row["pair_id"] for row in strengths if row["taught"] == 0.0}
    still_wrong = wrong - turned | turned - wrong
    assert len(wrong) == 40 and len(still_wrong) <= 10, (len(turned & wrong), len(turned - wrong))
    assert right["flip"] >= right["keep"] and right["flip"] >= 36
    doubtful = sorted(strengths, key=lambda row: row["mean"])[: len(turned)]
    assert {row["pair_id"] for row in doubtful} == turned and all(row["mean"] < 0 < row["std"] for row in doubtful)


def test_what_each_treatment_teaches() -> None:
    preferences = [preference(f"q{i}", "a", "b", p_chosen=p) for i, p in enumerate((0.9, 0.8, 0.7, 1.0))]
    found = [[-2.0, 1.0, -0.5, 3.0], [-1.0, 2.0, 0.1, 5.0]]

    def taught(**changes: Any) -> list[tuple[float, float]]:
        section = reward_section(**changes)
        lessons = treat(pair_lessons(TOKENIZER, preferences, section), found, section).lessons
        return [(round(lesson.target, 9), round(lesson.margin, 9)) for lesson in lessons]

    margin = {"kind": "bradley_terry", "margin": 2.0}
    assert taught(denoise={"kind": "flip", "share": 0.25}) == [(0.1, 0), (0.8, 0), (0.7, 0), (1.0, 0)]
    assert taught(denoise={"kind": "flip", "share": 0.25}, loss=margin) == [(0.1, 1.6), (0.8, 1.2), (0.7, 0.8), (1, 2)]
    soften = {"kind": "soften", "share": 0.5, "smoothing": 0.4}
    assert taught(denoise=soften) == [(0.58, 0), (0.8, 0), (0.54, 0), (1.0, 0)]
    assert taught(denoise={"kind": "margin"}) == [(0.9, -1.5), (0.8, 1.5), (0.7, -0.2), (1.0, 4.0)]
    section = reward_section(denoise={"kind": "margin"})
    rows = treat(pair_lessons(TOKENIZER, preferences, section), found, section).strengths
    assert [row.mean for row in rows] == [-1.5, 1.5, -0.2, 4.0]
    assert [row.std for row in rows] == [0.5, 0.5, 0.3, 1.0]


def test_the_final_model_is_taught_the_treated_labels(
    shallow_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With strengths given, not learnt: the first pair, certain, is turned round, and the model learns it so."""
    preferences = [preference(f"q{i}", "aaaa", "zzzz") for i in range(8)]
    monkeypatch.setattr(worth, "strengths", lambda stage, lessons: [-1.0] * len(lessons))
    section = reward_section(denoise={"kind": "flip", "share": 1.0, "members": 2}, epochs=6, learning_rate=5e-3)
    run = prepared(tmp_path, preferences)
    recipe: Recipe = tiny_recipe(shallow_folder, reward=section)
    stages.reward(recipe, run)
    chosen, rejected = encode_pairs(TOKENIZER, preferences[:1], 1000)[0][1:]
    score_B = load_members(run.reward_model, torch.float32)[0].score_all([chosen, rejected], 1000)
    assert float(score_B[1] - score_B[0]) > 1
    shutil.rmtree(run.checkpoints)
    assert json.loads(run.strengths.read_text().splitlines()[0])["taught"] == 0.0
