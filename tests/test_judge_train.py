"""`rlaif judge train`: a planted rule is learnt in every mode, and the folder is the judge that was measured."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rlaif.audits.audit import write_audit
from rlaif.audits.judge_training import command, worth
from rlaif.audits.judge_training.command import TrainedJudge, train_command
from rlaif.audits.judge_training.labels import PairLabel, Split, key_of, read_labels, split
from rlaif.audits.judge_training.material import JudgeTrainMaterial, answer_of, material_of
from rlaif.audits.principles import judge_and_ablate
from rlaif.config import Recipe, changed_keys
from rlaif.config.models import LocalModel
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.verdict import sigma
from rlaif.models.embedded import resolve_model
from rlaif.models.open import open_model
from rlaif.pipeline import STAGES
from rlaif.records import Failure
from rlaif.run_folder import Run
from rlaif.training import memory
from rlaif.training.judge import loop
from rlaif.training.judge.lessons import Encoder, JudgeLesson
from rlaif.training.judge.loop import HeldoutAgreement, Learner, as_judge, best_of, stops
from rlaif.training.offline import make_learner
from rlaif.training.policy_model import PolicyModel
from rlaif.training.tracking import Tracker
from tests.learning_judge import MODES, TWO, recipe_of, rows, write
from tests.tiers import some
from tests.tiny_training import LORA, Killed, same, weights

EPOCHS = {"compare": 5}
"""Where two are too few: in one order the rule is the opposite of that in the other."""


class Learnt(NamedTuple):
    """One training, whole."""

    recipe: Recipe
    gold: Path
    result: TrainedJudge

    @property
    def folder(self) -> Path:
        assert self.result.folder is not None
        return self.result.folder

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "judge.json").read_text())
        return found

    def parts(self) -> Split:
        labels = read_labels([self.gold], load_constitution(self.recipe.constitution))
        return split(labels.labels, None, self.recipe.judge_training)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Learnt]]:
    """A training in each mode, done once."""
    done: dict[str, Learnt] = {}

    def train(kind: str) -> Learnt:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            recipe = recipe_of(folder, kind, f"judge_training.epochs={EPOCHS.get(kind, 2)}")
            gold = write(folder / "gold.jsonl", rows(120))
            done[kind] = Learnt(recipe, gold, train_command(recipe, [gold], out=folder / "judge"))
        return done[kind]

    yield train


def judged(folder: Path, labels: Sequence[PairLabel], recipe: Recipe) -> JudgeResult:
    model = open_model(LocalModel(model=str(folder), dtype="float32"))
    return worth.ask(lambda _: nullcontext(model), labels, load_constitution(recipe.constitution), recipe)


# ----------------------------------------------------------------------------------------------- it learns, whole


@pytest.mark.parametrize("kind", MODES)
def test_a_planted_rule_is_learnt_and_holds_on_prompts_that_nobody_saw(
    kind: str, learnt: Callable[[str], Learnt]
) -> None:
    found = learnt(kind)
    audit, parts = found.record["audit"], found.parts()
    assert audit["pairs"] == len(parts.audit) > 20
    assert audit["before"]["agreement"]["value"] < 0.7 and audit["after"]["agreement"]["value"] > 0.9
    gain = audit["difference"]
    assert gain["value"] == pytest.approx(audit["after"]["agreement"]["value"] - audit["before"]["agreement"]["value"])
    assert 0.2 < gain["low"] < gain["high"]
    assert audit["after"]["coverage"]["value"] == 1.0, "what it learns to say are the labels"
    assert audit["after"]["loss"] < 0.3
    if kind == "compare":
        assert audit["after"]["consistency"]["value"] > 0.9, "both orders were taught"
    else:
        assert audit["after"]["consistency"] is None


@pytest.mark.parametrize("kind", MODES)
def test_the_folder_judges_as_the_weights_in_training_did(kind: str, learnt: Callable[[str], Learnt]) -> None:
    found = learnt(kind)
    seen = found.record["epochs"][found.record["best_epoch"]]
    heldout = found.parts().heldout
    again = worth.agreement_with(heldout, judged(found.folder, heldout, found.recipe))
    assert again == pytest.approx((seen["agreement"], seen["loss"], seen["failed"]), abs=1e-5)


def test_the_record_says_what_it_came_from(learnt: Callable[[str], Learnt]) -> None:
    found = learnt("compare")
    record, parts = found.record, found.parts()
    base, recipe = Path(found.recipe.judge.model), found.recipe
    assert record == found.result.record
    assert record["base_revision"] == resolve_model(str(base)).revision
    assert record["revision"] == resolve_model(str(found.folder)).revision, "which judge.json itself does not change"
    constitution = load_constitution(recipe.constitution)
    assert record["base"]["constitution"] == {"id": "letters", "version": "1.0.0", "hash": constitution.hash}
    assert record["base"]["mode"]["template"]["hash"] and record["base"]["mode"]["kind"] == "compare"
    assert record["gold"]["files"][0]["name"] == "gold.jsonl" and record["gold"]["pairs"] == 120
    assert record["pairs"] == {"train": len(parts.train), "heldout": len(parts.heldout), "audit": len(parts.audit)}
    assert record["prompts"] == sorted({key_of(label) for label in (*parts.train, *parts.heldout)})
    assert record["sections"]["judge_training"] == recipe.judge_training.model_dump(mode="json")
    assert record["sections"]["seed"] == recipe.seed and len(record["epochs"]) == 6
    rows = [json.loads(line) for line in (found.folder / "rlaif_metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(record["steps"]))
    assert {"loss", "accuracy", "label_mass", "gradient_norm"} <= rows[0].keys()
    assert not found.folder.with_name(".judge.training").exists()


def test_the_same_command_again_does_nothing_and_says_the_same(
    learnt: Callable[[str], Learnt], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learnt("compare")
    monkeypatch.setattr(command, "_train_and_audit", None)
    assert train_command(found.recipe, [found.gold], out=found.folder) == found.result
    assert "100%" in "\n".join(found.result.lines) and found.result.lines[-1].startswith(f"judge: {found.folder}")
    other = found.recipe.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="a judge that was trained otherwise; name another folder"):
        train_command(other, [found.gold], out=found.folder)
    with pytest.raises(ConfigError, match="there already, and no trained judge"):
        train_command(found.recipe, [found.gold], out=found.folder.parent)


# ------------------------------------------------------------------------------- nobody is audited on what it learnt


@pytest.mark.usefixtures("blank_plots")
def test_no_audit_of_a_trained_judge_on_the_prompts_that_trained_it(
    learnt: Callable[[str], Learnt], tmp_path: Path
) -> None:
    found = learnt("compare")
    judge = found.recipe.judge.model_copy(update={"model": str(found.folder)})
    recipe = found.recipe.model_copy(update={"judge": judge})
    said = rf"gold: {found.folder} was trained on 86 of its prompts \(first: "
    with pytest.raises(DataError, match=said):
        write_audit(recipe, [found.gold], None, tmp_path / "audit")
    with pytest.raises(DataError, match=said):
        judge_and_ablate(recipe, [found.gold])
    assert not (tmp_path / "audit").exists()
    panel = {"kind": "panel", "members": [{"name": "a"}, {"name": "b", "model": judge.model_dump()}]}
    values = found.recipe.model_dump() | {"label": {"mode": panel}}
    with pytest.raises(DataError, match=said):
        write_audit(Recipe.model_validate(values), [found.gold], None, tmp_path / "audit")
    unseen = write(tmp_path / "unseen.jsonl", rows(30, seed=7))
    audited = write_audit(recipe, [unseen], None, tmp_path / "audit", probe_pairs=0)
    assert audited.audit["accuracy"]["value"] > 0.9


def test_what_a_judge_learnt_counts_for_those_that_are_trained_from_it(
    learnt: Callable[[str], Learnt], tmp_path: Path
) -> None:
    found = learnt("compare")
    judge = found.recipe.judge.model_copy(update={"model": str(found.folder)})
    recipe = found.recipe.model_copy(update={"judge": judge})
    new = write(tmp_path / "new.jsonl", rows(40, seed=3))
    with pytest.raises(DataError, match="was trained on 86"):
        train_command(recipe, [new], [found.gold], tmp_path / "second")


def test_a_record_that_is_damaged_is_said(learnt: Callable[[str], Learnt], tmp_path: Path) -> None:
    found = learnt("compare")
    copy = shutil.copytree(found.folder, tmp_path / "judge")
    recipe = found.recipe.model_copy(update={"judge": found.recipe.judge.model_copy(update={"model": str(copy)})})
    for text, said in (("{", "not JSON"), ('{"schema": "x"}', "subject: Field required")):
        (copy / "judge.json").write_text(text)
        with pytest.raises(DataError, match=said):
            write_audit(recipe, [found.gold])


# ------------------------------------------------------------------------------------------------------ the numbers


class Small(NamedTuple):
    """A judge that has learnt nothing, and what it could learn."""

    learner: Learner
    material: JudgeTrainMaterial
    labels: tuple[PairLabel, ...]
    recipe: Recipe


def small(folder: Path, kind: str, count: int = 12, **changes: Any) -> Small:
    recipe = recipe_of(folder, kind, "label.min_label_mass=0", constitution=TWO)
    constitution = load_constitution(recipe.constitution)
    labels = read_labels([write(folder / "gold.jsonl", rows(count))], constitution).labels
    policy = PolicyModel.load(recipe.judge.model, None, torch.float32)
    section = recipe.judge_training.model_copy(update={"lora": LORA, "epochs": 3} | changes)
    make_learner(policy, section.lora, 0, recipe.compute)
    material = material_of(recipe, constitution, labels)
    learner = Learner(Encoder(policy), answer_of(material.mode, section.mass_weight), section)
    return Small(learner, material, labels, recipe)


def moved(learner: Learner) -> None:
    """Adapters that change what the model says; new ones do not."""
    torch.manual_seed(0)
    for name, parameter in learner.policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)


@pytest.mark.parametrize("kind", MODES)
def test_what_is_trained_is_the_number_that_the_judge_says(kind: str, tmp_path: Path) -> None:
    """By each of two principles, also where their questions share what they can."""
    learner, material, labels, recipe = small(tmp_path, kind)
    moved(learner)
    with as_judge(learner.policy, 4) as judge:
        result = worth.ask(lambda _: nullcontext(judge), labels, load_constitution(recipe.constitution), recipe)
    said = {(j.pair.id, part.principle): part.p_a for j in result.judgments for part in j.principles}
    assert len(said) == 24 and max(said.values()) - min(said.values()) > 0.01
    whole = [material.whole(subject) for subject in material.subjects]
    single = [JudgeLesson(one.id, one.prompt_id, (question,)) for one in whole for question in one.questions]
    for lessons in (whole, single):
        questions = [question for lesson in lessons for question in lesson.questions]
        token_rows = [each for lesson in lessons for each in learner.encoder.rows(lesson)]
        answered = learner.answer(learner.encoder, questions, token_rows)
        assert [sigma(lead) for lead in answered.lead_N.tolist()] == pytest.approx(list(said.values()), abs=1e-5)


def test_questions_of_a_pair_share_what_they_have_in_common(tmp_path: Path) -> None:
    learner, material, *_ = small(tmp_path, "compare")
    lesson = material.whole(material.subjects[0])
    (first, second), (other, _) = learner.encoder.rows(lesson)
    assert first.prompt == other.prompt != second.prompt, "one order, two principles"
    alone = [learner.encoder.row(request) for request in lesson.questions[0].requests]
    assert [(*row.prompt, *row.response) for row in (first, second)] == [(*r.prompt, *r.response) for r in alone]
    assert len(first.response) < len(first.prompt)


def gradients(learner: Learner, lessons: Sequence[JudgeLesson]) -> tuple[float, list[torch.Tensor]]:
    row = loop.learn(learner, lessons, "here")
    found = [p.grad.clone() for p in learner.policy.model.parameters() if p.grad is not None]
    learner.policy.model.zero_grad()
    return row["loss"], found


@pytest.mark.parametrize("max_tokens", [1, 100_000])
def test_a_pair_counts_by_its_weight_and_in_whatever_microbatch(max_tokens: int, tmp_path: Path) -> None:
    learner, material, *_ = small(tmp_path, "compare", microbatch_tokens=max_tokens)
    moved(learner)
    one, other = (material.whole(subject) for subject in material.subjects[:2])
    both = [one._replace(weight=3.0), other]
    (loss_1, g_1), (loss_2, g_2), (loss, g) = (gradients(learner, lessons) for lessons in ([one], [other], both))
    assert loss == pytest.approx((3 * loss_1 + loss_2) / 4, rel=1e-5)
    for mixed, a, b in zip(g, g_1, g_2, strict=True):
        torch.testing.assert_close(mixed, (3 * a + b) / 4, rtol=1e-3, atol=1e-5)


@some(("kind", "epochs"), [("checklist", 4)], [("compare", 9)])
def test_soft_labels_are_learnt_as_they_are(kind: str, epochs: int, tmp_path: Path) -> None:
    """Ties too: a pair that people find even ends near a half, one that they find better in 80 % near 0.8."""
    values = [row | {"p_chosen": 0.8} for row in rows(60)] + [
        row | {"p_chosen": 0.5} for row in rows(60, seed=1, better="mno", worse="mno")
    ]
    gold = write(tmp_path / "gold.jsonl", values)
    recipe = recipe_of(tmp_path, kind, f"judge_training.epochs={epochs}", "judge_training.audit_share=0")
    result = train_command(recipe, [gold], out=tmp_path / "judge")
    assert result.folder is not None and result.record["audit"] is None
    fresh = write(
        tmp_path / "fresh.jsonl",
        [row | {"p_chosen": 0.8} for row in rows(40, seed=2)]
        + [row | {"p_chosen": 0.5} for row in rows(40, seed=3, better="mno", worse="mno")],
    )
    labels = read_labels([fresh], load_constitution(recipe.constitution)).labels
    ps = {judgment.pair.id: judgment.p_a for judgment in judged(result.folder, labels, recipe).judgments}
    even = [ps[label.pair.id] for label in labels if label.p_a == 0.5]
    better = [ps[label.pair.id] if label.p_a > 0.5 else 1 - ps[label.pair.id] for label in labels if label.p_a != 0.5]
    assert sum(better) / len(better) == pytest.approx(0.8, abs=0.1)
    assert sum(abs(p - 0.5) for p in even) / len(even) < 0.12


def test_a_pair_without_a_judgment_is_worth_a_half(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "compare")
    labels = read_labels([write(tmp_path / "g.jsonl", rows(2))], load_constitution(recipe.constitution)).labels
    failed = JudgeResult((), tuple(Failure(stage="label", id=label.pair.id, reason="x") for label in labels))
    assert worth.agreement_with(labels, failed) == pytest.approx((0.5, 0.6931472, 2))


# ------------------------------------------------------------------------------------------------- when it stops


def looks(*agreements: float) -> list[HeldoutAgreement]:
    return [HeldoutAgreement(agreement, 1.0, 0) for agreement in agreements]


def test_the_best_epoch_must_beat_none_and_ties_go_to_the_least_loss() -> None:
    assert best_of(looks(0.5)) == best_of(looks(0.5, 0.5, 0.4)) == 0
    assert best_of([HeldoutAgreement(0.5, 0.7, 0), HeldoutAgreement(0.5, 0.1, 0)]) == 0, "surer is not better"
    assert best_of(looks(0.5, 0.6, 0.8, 0.7, 0.8)) == 2
    assert (
        best_of(
            [
                HeldoutAgreement(0.5, 0.7, 0),
                HeldoutAgreement(0.5, 0.1, 0),
                HeldoutAgreement(0.6, 0.6, 0),
                HeldoutAgreement(0.6, 0.5, 0),
            ]
        )
        == 3
    )
    assert not stops(looks(0.5, 0.6, 0.5), 2) and stops(looks(0.5, 0.6, 0.5, 0.6), 2) and stops(looks(0.5, 0.5), 1)


def train_small(
    folder: Path, agreements: Sequence[float], dies_at: int = 0, dies_in: str = "look"
) -> tuple[loop.JudgeTrainResult, dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A training whose held-out agreement is made up; what came of it, and the weights at each look."""
    learner, material, *_ = small(folder, "compare", epochs=6, minibatch_size=6, checkpoint_every=3)
    seen = list(agreements)
    at_looks: list[dict[str, torch.Tensor]] = []
    calls = {"look": 0, "step": 0}
    earlier = folder / "run" / "looks.json"
    done = json.loads(earlier.read_text()) if earlier.exists() else 0

    def count(what: str) -> None:
        calls[what] += 1
        if dies_in == what and calls[what] == dies_at:
            raise Killed

    def look() -> HeldoutAgreement:
        count("look")
        at_looks.append(weights(learner.policy.model))
        which = done + len(at_looks)
        earlier.write_text(json.dumps(which))
        return HeldoutAgreement(seen[which - 1], 1.0, 0)

    run = folder / "run"
    run.mkdir(exist_ok=True)

    class Steps(Tracker):
        def log(self, step: int, row: Any) -> None:
            super().log(step, row)
            count("step")

    tracker = Steps(Run(run), "judge", 12, lambda n: None, lambda line: None)
    trained = loop.train(learner, material.lessons, 0, run / "checkpoints", tracker, look)
    return trained, weights(learner.policy.model), at_looks


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    trained, final, at_looks = train_small(tmp_path, [0.5, 0.6, 0.9, 0.7, 0.8, 1.0, 1.0])
    assert (trained.best, trained.steps, len(at_looks)) == (2, 8, 5), "two epochs without a better one"
    assert same(final, at_looks[2]) and not same(final, at_looks[4])


@some(("dies_in", "dies_at"), [("step", 4)], [("look", 1), ("look", 2), ("look", 5), ("step", 6), ("step", 7)])
def test_killed_and_begun_again_it_ends_with_the_same_bytes(dies_in: str, dies_at: int, tmp_path: Path) -> None:
    agreements = [0.5, 0.6, 0.9, 0.7, 0.95, 0.8, 0.8]
    whole, expected, _ = train_small(tmp_path / "a", agreements)
    with pytest.raises(Killed):
        train_small(tmp_path / "b", agreements, dies_at, dies_in)
    again, final, _ = train_small(tmp_path / "b", agreements)
    assert again == whole and same(final, expected)
    metrics = [Run(tmp_path / name / "run").read_metrics("judge") for name in "ab"]
    assert metrics[0] == metrics[1]


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, gold = recipe_of(tmp_path, "compare"), write(tmp_path / "gold.jsonl", rows(60))
    train = partial(train_command, recipe, [gold])
    train(out=tmp_path / "a" / "judge")
    own, calls = loop.learn, [0]

    def dies(*given: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 4:
            raise Killed
        return own(*given)

    monkeypatch.setattr(loop, "learn", dies)
    with pytest.raises(Killed):
        train(out=tmp_path / "b" / "judge")
    assert not (tmp_path / "b" / "judge").exists()
    train(out=tmp_path / "b" / "judge")
    for file in sorted((tmp_path / "a" / "judge").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / "judge" / file.name).read_bytes(), file.name


# ------------------------------------------------------------------------------------------------ the command line


def words(recipe: Recipe, *more: str) -> list[str]:
    """What says this recipe on the command line."""
    judge = recipe.judge
    mode = recipe.label.mode
    return [
        "judge",
        "train",
        "quickstart",
        f"constitution={recipe.constitution}",
        f"judge={{backend: local, model: {judge.model}, dtype: float32}}",
        f"label.mode={{kind: {mode.kind}, template: {getattr(mode, 'template', '')}}}",
        *more,
    ]


def test_the_command_explains_itself(cli: Any) -> None:
    code, out, _ = cli("judge", "train", "--help")
    assert code == 0 and "--gold" in out and "--audit" in out and "judge" in cli("--help")[1]


def test_where_no_epoch_is_better_there_is_no_folder_and_exit_code_1(cli: Any, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", rows(30))
    said = words(recipe_of(tmp_path, "compare"), "judge_training.learning_rate=1.0e-9", "judge_training.epochs=1")
    code, out, _ = cli(*said, "--gold", str(gold), "--out", "judge")
    assert code == 1 and "No epoch agreed more with the held-out labels of" in out and "(50%)" in out
    assert not (tmp_path / "judge").exists() and not (tmp_path / ".judge.training").exists()


def test_what_was_left_out_is_on_the_screen(cli: Any, tmp_path: Path) -> None:
    values = [*rows(30), *rows(1), {"prompt": "Hi", "chosen": "x", "rejected": "x"}]
    values += [row | {"chosen": row["chosen"] * 40} for row in rows(6, seed=5)]
    gold = write(tmp_path / "gold.jsonl", values)
    said = words(recipe_of(tmp_path, "compare"), "judge_training.epochs=1", "judge_training.max_length=200")
    _, out, _ = cli(*said, "--gold", str(gold), "--out", "judge")
    assert (
        "gold: 36 labelled pairs, rows without a usable label 1, rows about a pair that has a label 1 (first: " in out
    )
    assert "left out of training: longer than judge_training.max_length" in out
    assert "memory: about" in out and "judge untrained: agrees with 50.0%" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["judge={backend: scripted, model: 'a:b'}"], "judge.backend=scripted: its weights are not here"),
        (["judge={backend: client, model: m, base_urls: ['http://127.0.0.1:1/v1']}"], "only those of local and vllm"),
        (
            ["label.mode={kind: revise}", "sample.contrast=null"],
            "label.mode.kind=revise: .*; choose compare, score, checklist, contrast",
        ),
        (["judge_training.epochs=0"], "judge_training.epochs: Input should be greater than or equal to 1"),
        (["judge_training.epoch=1"], "did you mean 'epochs'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(changes: list[str], said: str, cli: Any, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.jsonl", rows(9))
    code, _, error = cli(*words(recipe_of(tmp_path, "compare"), *changes), "--gold", str(gold))
    assert code == 2 and error.startswith("error: ") and "Traceback" not in error
    assert re.search(said, error)


def test_audit_labels_that_share_prompts_are_exit_code_2(cli: Any, tmp_path: Path) -> None:
    gold, audit = write(tmp_path / "gold.jsonl", rows(9)), write(tmp_path / "audit.jsonl", rows(4))
    code, _, error = cli(*words(recipe_of(tmp_path, "compare")), "--gold", str(gold), "--audit", str(audit))
    assert code == 2 and "4 prompts of the audit labels are among those of the gold (first: " in error
    assert error.count("\n") == 1


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    recipe, gold = recipe_of(tmp_path, "compare"), write(tmp_path / "gold.jsonl", rows(9))
    with pytest.raises(ConfigError, match=r"judge_training: needs about 0.1 GB .* judge_training.microbatch_tokens"):
        train_command(recipe, [gold], out=tmp_path / "judge")


def test_a_run_is_the_same_whatever_the_section_says(tmp_path: Path) -> None:
    """No stage reads it, so no finished work is thrown away."""
    one, other = (recipe_of(tmp_path, "compare", f"judge_training.epochs={n}") for n in (1, 2))
    assert all(stage.settings(one) == stage.settings(other) for stage in STAGES.values())
    assert changed_keys(one, other) == []
