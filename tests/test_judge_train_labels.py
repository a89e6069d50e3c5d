"""What a judge is taught: which labels, of which prompts, through which requests, towards what."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rlaif.audits.judge_training.labels import PairLabel, PairLabels, key_of, keys_of, prompt_key, read_labels, split
from rlaif.audits.judge_training.material import JudgeTrainMaterial, material_of, trainable_mode
from rlaif.config import Recipe
from rlaif.config.training import JudgeTrainSection
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge import judge_by_mode
from rlaif.jsonl import write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message, Pair, Preference, Prompt
from rlaif.testing import choose
from tests.learning_judge import MODES, TWO, recipe_of, rows, write

SECTION = JudgeTrainSection()


def constitution_of(recipe: Recipe) -> Constitution:
    return load_constitution(recipe.constitution)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return recipe_of(tmp_path, "compare", constitution=TWO)


def labels_of(tmp_path: Path, recipe: Recipe, *values: dict[str, Any]) -> PairLabels:
    return read_labels([write(tmp_path / "gold.jsonl", values)], constitution_of(recipe))


def pair(question: str, a: str, b: str, *tags: str) -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content=question),), tags), a, b)


def p_of(label: PairLabel, text: str) -> float:
    return label.p_a if label.pair.a == text else 1 - label.p_a


def taught(material: JudgeTrainMaterial, epoch: int = 0) -> list[tuple[str, float]]:
    """(the principle's text in the request, p of the response that stands first in it) of every question."""
    return [
        (question.requests[0].messages[-1].content.rpartition("\n")[2], question.p_a)
        for lesson in material.lessons(epoch)
        for question in lesson.questions
    ]


# ------------------------------------------------------------------------------------------------------ labels


def test_peoples_labels_are_read_in_any_form_and_order(tmp_path: Path, recipe: Recipe) -> None:
    values: list[dict[str, Any]] = [
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: so", "rejected": "\n\nHuman: Why?\n\nAssistant: no", "p_chosen": 0.7},
    ]
    found = labels_of(tmp_path, recipe, *values)
    ps = {text: p_of(label, text) for label in found.labels for text in {label.pair.a, label.pair.b}}
    assert ps == pytest.approx({"good": 1.0, "bad": 0.0, "so": 0.7, "no": 0.3})
    assert found.labels == labels_of(tmp_path, recipe, *values[::-1]).labels
    assert found.files[0].rows == 2 and found.files[0].pairs == 2


def test_a_preference_keeps_its_weight_and_its_soft_label_whoever_said_it(tmp_path: Path, recipe: Recipe) -> None:
    one = pair("Hi", "good", "bad")
    row = Preference(
        prompt=one.prompt,
        chosen=(Message(role="assistant", content="bad"),),
        rejected=(Message(role="assistant", content="good"),),
        p_chosen=0.9,
        source="ai",
        weight=2.5,
        split="heldout",
        prompt_id="p",
        pair_id=one.id,
    )
    write_jsonl(tmp_path / "preferences.jsonl", [row])
    (label,) = read_labels([tmp_path / "preferences.jsonl"], constitution_of(recipe)).labels
    assert label.pair.id == one.id and label.weight == 2.5
    assert p_of(label, "bad") == pytest.approx(0.9)


def test_a_pair_that_several_labelled_has_the_mean_and_is_counted(tmp_path: Path, recipe: Recipe) -> None:
    values: list[dict[str, Any]] = [
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": "Hi", "chosen": "bad", "rejected": "good", "p_chosen": 0.75},
        {"prompt": "Hi", "chosen": "same", "rejected": "same"},
    ]
    found = labels_of(tmp_path, recipe, *values)
    (label,) = found.labels
    assert p_of(label, "good") == pytest.approx(0.625)
    assert (found.repeated, found.contradicted, len(found.failures)) == (1, 1, 1)
    assert found.failures[0].id.endswith("gold.jsonl:3")


def judged(recipe: Recipe, pairs: Sequence[Pair]) -> list[Any]:
    """Judgments of a judge that prefers late letters, by the second principle less surely."""

    def judge(request: ChatRequest) -> dict[str, float]:
        text = request.messages[-1].content
        first = text.partition("<a>\n")[2]
        lead = 2.0 if first[0] in "xyz" else -2.0
        return choose(lead * (0.25 if text.endswith("E?") else 1.0))

    model = ScriptedChatModel(judge)
    return list(judge_by_mode(lambda _: nullcontext(model), pairs, constitution_of(recipe), recipe.label, 0).judgments)


def test_another_judges_judgments_teach_each_principle_its_own_p(tmp_path: Path, recipe: Recipe) -> None:
    judgments = judged(recipe, [pair("Hi", "xxxx", "aaaa"), pair("Hi", "bbbb", "zzzz")])
    write_jsonl(tmp_path / "judgments.jsonl", judgments)
    constitution = constitution_of(recipe)
    found = read_labels([tmp_path / "judgments.jsonl"], constitution)
    material = material_of(recipe, constitution, found.labels)
    by_pair = {judgment.pair.id: judgment for judgment in judgments}
    for epoch in (0, 1):
        for lesson in material.lessons(epoch):
            judgment = by_pair[lesson.id]
            turned = judgment.pair.a not in lesson.questions[0].requests[0].messages[-1].content.partition("<b>")[0]
            wanted = [1 - part.p_a if turned else part.p_a for part in judgment.principles]
            assert [question.p_a for question in lesson.questions] == pytest.approx(wanted)
    assert len({p for _, p in taught(material)}) == 4


def test_a_panel_of_the_mean_teaches_each_principle_the_mean_of_its_members(tmp_path: Path, recipe: Recipe) -> None:
    members = [{"name": name, "mode": recipe.label.mode.model_dump()} for name in ("one", "two")]

    def by_panel(how: str) -> PairLabel:
        asked = 0

        def judge(request: ChatRequest) -> dict[str, float]:
            nonlocal asked
            asked += 1
            lead = 3.0 if asked <= 4 else 1.0  # the first member's four questions, then the second's
            text = request.messages[-1].content
            lead *= 1.0 if text.partition("<a>\n")[2][0] in "xyz" else -1.0
            return choose(-lead if text.endswith("E?") else lead)

        mode = {"kind": "panel", "combine": how, "members": members}
        panel = recipe.model_copy(update={"label": recipe.label.model_validate({"mode": mode, "min_label_mass": 0.0})})
        model = ScriptedChatModel(judge)
        pairs, section = [pair("Hi", "xxxx", "aaaa")], panel.label
        found = judge_by_mode(lambda _: nullcontext(model), pairs, constitution_of(recipe), section, 0)
        write_jsonl(tmp_path / f"{how}.jsonl", found.judgments)
        (label,) = read_labels([tmp_path / f"{how}.jsonl"], constitution_of(recipe)).labels
        return label

    label = by_panel("mean")
    wanted = 1 / (1 + math.exp(-2.0))  # of log-odds 3 and 1
    ps = {p_a if label.pair.a == "xxxx" else 1 - p_a for _, p_a in label.by_principle}
    assert sorted(ps) == pytest.approx([1 - wanted, wanted]) and len(label.by_principle) == 2
    assert by_panel("majority").by_principle == (), "its label is no mean of what members say by principle"


def test_what_another_constitution_says_by_principle_is_not_used_and_counted(tmp_path: Path, recipe: Recipe) -> None:
    judgments = judged(recipe, [pair("Hi", "xxxx", "aaaa")])
    write_jsonl(tmp_path / "judgments.jsonl", judgments)
    other = recipe_of(tmp_path, "compare")
    constitution = constitution_of(other)
    found = read_labels([tmp_path / "judgments.jsonl"], constitution)
    assert found.other_constitution == 1 and found.labels[0].by_principle == ()
    assert [p for _, p in taught(material_of(other, constitution, found.labels))] == pytest.approx(
        [found.labels[0].p_a]
    )


# ------------------------------------------------------------------------------------------------------- split


def label(question: str, a: str = "xxxx", b: str = "aaaa", p_a: float = 1.0, system: str = "") -> PairLabel:
    turns = ([Message(role="system", content=system)] if system else []) + [Message(role="user", content=question)]
    return PairLabel(Pair.of(Prompt.of(tuple(turns)), a, b), p_a)


def test_no_prompt_is_in_two_parts_and_each_has_its_share() -> None:
    labels = [label(f"Q{n // 2}", a=f"x{n}") for n in range(800)]
    parts = split(labels, None, SECTION)
    keys = [keys_of(part) for part in parts]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert sorted(map(id, labels)) == sorted(id(one) for part in parts for one in part)
    assert len(keys[2]) / 400 == pytest.approx(0.25, abs=0.06)
    assert len(keys[1]) / (400 - len(keys[2])) == pytest.approx(0.15, abs=0.05)
    assert {key_of(one) for one in split(labels[::-1], None, SECTION).audit} == keys[2], "order does not matter"


def test_a_prompt_is_the_same_under_another_system_turn_and_other_blanks() -> None:
    assert key_of(label("Why not?")) == key_of(label(" Why  not?\n", system="Be brief."))
    assert key_of(label("Why not?")) != key_of(label("Why?"))
    assert prompt_key((Message(role="user", content="a"), Message(role="user", content="b"))) != prompt_key(
        (Message(role="user", content="a b"),)
    )


def test_audit_labels_on_prompts_that_train_are_refused_with_their_number() -> None:
    labels = [label(f"Q{n}") for n in range(20)]
    audit = [label("other"), label("Q3", system="Be brief."), label("Q7"), label("Q7", a="zzzz")]
    with pytest.raises(DataError, match=f"2 prompts of the audit labels .*{audit[1].pair.id}"):
        split(labels, audit, SECTION)
    parts = split(labels, audit[:1], SECTION)
    assert parts.audit == (audit[0],) and len(parts.train) + len(parts.heldout) == 20


def test_too_few_prompts_or_only_ties_to_stop_by_are_said() -> None:
    with pytest.raises(DataError, match="labels of 2 prompts are too few: it takes 3"):
        split([label("Q1"), label("Q2")], None, SECTION)
    with pytest.raises(DataError, match=r"not one of the .* held-out labels has a preference"):
        split([label(f"Q{n}", p_a=0.5) for n in range(20)], [label("other")], SECTION)


# ---------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("kind", MODES)
def test_what_is_taught_are_the_very_requests_that_judging_makes(kind: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, kind, constitution=TWO)
    constitution = constitution_of(recipe)
    asked: list[ChatRequest] = []

    def record(request: ChatRequest) -> Reply:
        asked.append(request)
        return Reply(error="only asked")

    one = label("Why?", "xxyz", "abca")
    model = ScriptedChatModel(record)
    judge_by_mode(lambda _: nullcontext(model), [one.pair], constitution, recipe.label, 0)
    material = material_of(recipe, constitution, [one])
    questions = material.whole(material.subjects[0]).questions
    assert len(questions) == 2 and {len(q.requests) for q in questions} == {4 if kind == "contrast" else 2}
    taught = [request for question in questions for request in question.requests]

    def plain(requests: Sequence[ChatRequest]) -> list[str]:
        return sorted(json.dumps(request.model_dump(mode="json")) for request in requests)

    assert plain(taught) == plain(asked)
    if kind == "compare":
        shown = [text.partition("<b>")[0] for text in (r.messages[-1].content for r in questions[0].requests)]
        assert "xxyz" in shown[0] and "abca" in shown[1]
    else:
        half = len(questions[0].requests) // 2
        texts = [request.answer or request.messages[-1].content for request in questions[0].requests]
        assert all("xxyz" in text for text in texts[:half]) and all("abca" in text for text in texts[half:])


def test_a_whole_label_teaches_one_principle_an_epoch_drawn_by_weight(tmp_path: Path, recipe: Recipe) -> None:
    labels = [label(f"Q{n}", p_a=0.8) for n in range(100)]
    material = material_of(recipe, constitution_of(recipe), labels)
    drawn = [taught(material, epoch) for epoch in range(4)]
    assert all(len(one) == 100 for one in drawn) and {p for one in drawn for _, p in one} == {0.8}
    counts = Counter(text for one in drawn for text, _ in one)
    assert counts["E?"] / 400 == pytest.approx(0.75, abs=0.07), "its weight is 3 of 4"
    assert drawn[0] != drawn[1] and drawn[0] == taught(material, 0)


def test_what_code_decides_teaches_nothing(tmp_path: Path) -> None:
    checked = TWO + "    check: {kind: regex_absent, pattern: a}\n"
    first = TWO.index("  - id: late")
    alone = checked[:first] + checked[checked.index("  - id: not-early") :]
    labels = [label("one", "xxxx", "aaaa"), label("neither", "axxx", "aaaa"), label("both", "xxxx", "zzzz")]
    for kind, count in (("compare", [1, 2, 2]), ("score", [1, 1, 2]), ("contrast", [1, 1, 2])):
        recipe = recipe_of(tmp_path, kind, constitution=checked)
        material = material_of(recipe, constitution_of(recipe), labels)
        assert [len(subject.asked) for subject in material.subjects] == count
        recipe = recipe_of(tmp_path, kind, constitution=alone)
        material = material_of(recipe, constitution_of(recipe), labels)
        assert material.dropped == {"code decides every principle": sum(n == 1 for n in count)}
        with pytest.raises(DataError, match="no label is left to learn from: code decides every principle 1"):
            material_of(recipe, constitution_of(recipe), labels[:1])


def test_a_recipe_that_draws_one_principle_a_pair_is_taught_all(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "compare", "label.aggregation={kind: sample}", constitution=TWO)
    material = material_of(recipe, constitution_of(recipe), [label("Why?")])
    assert len(material.subjects[0].asked) == 2


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("{kind: reasoned}", "label.mode.kind=reasoned: .*; choose compare, score, checklist, contrast"),
        ("{kind: panel, members: [{name: a}, {name: b}]}", "train each by itself"),
        ("{kind: contrast, against: {backend: local, model: x}}", "names a second model"),
    ],
)
def test_a_mode_without_an_answer_of_its_own_is_refused(mode: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        trainable_mode(recipe_of(tmp_path, "compare", f"label.mode={mode}"))


def test_a_principle_without_what_the_mode_asks_by_is_named(tmp_path: Path) -> None:
    bare = TWO.replace('    question: E?\n    desired: "no"\n    contrast: {for: X, against: Y}\n', "")
    for kind, said in (("checklist", "'not-early' has no `question`"), ("contrast", "'not-early' has no `contrast`")):
        recipe = recipe_of(tmp_path, kind, constitution=bare)
        with pytest.raises(ConfigError, match=said):
            material_of(recipe, constitution_of(recipe), [label("Why?")])


def test_rows_of_no_label_at_all_stop_with_the_first(tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(DataError, match=r"gold.jsonl:1: no human label of a pair \(keys: x\)"):
        labels_of(tmp_path, recipe, {"x": 1})
    with pytest.raises(DataError, match=r"not one usable pair with a label in 1 rows; first: .*gold.jsonl:1"):
        labels_of(tmp_path, recipe, rows(1)[0] | {"rejected": ""})
