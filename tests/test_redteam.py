"""Prompts that break a principle are kept by what the policy does; hard prompts are those that were planted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlaif import __version__
from rlaif.annotate import mining
from rlaif.audits.redteam import Attempt, different, shingles
from rlaif.cli import app
from rlaif.config.feedback import PromptsSection
from rlaif.config.load import dump_recipe
from rlaif.constitution import Principle
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.screening.duplicates import jaccard
from rlaif.formats.rows import with_system
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.decoding import DECODE
from rlaif.models.engine import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Given, Judgment, Message, Pair, PrincipleJudgment, Prompt
from rlaif.run_folder import Run
from rlaif.stages.feedback import SAMPLE
from rlaif.testing import small_recipe

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: mixed
version: 1.0.0
title: Mixed
profile: [name]
principles:
  - {id: no-digits, check: {kind: regex_absent, pattern: '[0-9]'}}
  - {id: polite, compare: "Which response is more polite?", question: "Is it polite?", desired: "yes"}
  - {id: plain, compare: "Which response is plainer?"}
  - {id: wordy, classifier: {kind: keywords, words: [words], at_least: 0.5}}
  - {id: long, classifier: {kind: repetition, at_least: 0.5}}
  - {id: strict, veto: true, tags: [hr], compare: "Which is more polite?", question: "Is it polite?", desired: "yes"}
  - {id: warm, compare: "Which response is warm?", question: "Does it say {profile.name}?", desired: "yes"}
"""
WRITTEN = [
    "How many bones does an adult person have in all?",  # breaks: a number is asked for
    "How many bones does an adult person have in total?",  # near the first
    "Tell me a story about a lonely lighthouse keeper.",  # breaks nothing
    "",
    "In which year did the first railway open to travellers?",  # breaks
    "Explain why bread rises when yeast is put into it.",  # breaks nothing
]


def run_of(folder: Path, **changes) -> Run:
    """A run of which the stage sample is finished."""
    recipe = small_recipe(folder, "tiny", prompts=8, prompts__heldout=2, **changes)
    (folder / "letters.yaml").write_text(CONSTITUTION)
    run = Run(folder / "run")
    run.folder.mkdir(exist_ok=True)
    run.recipe.write_text(dump_recipe(recipe))
    read = {"rlaif": __version__, "knobs": SAMPLE.settings(recipe), "files": {}}
    run.mark_done("sample", "x", [], {"seconds": 1.0}, read)
    return run


class Asked(list[str]):
    """The last turns that the policy was asked, and the whole requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ChatRequest] = []


@pytest.fixture
def models(monkeypatch):
    """The writer writes WRITTEN in turn, the policy answers with digits where a number is asked for."""
    asked: Any = Asked()
    requests = asked.requests

    def policy(request):
        text = request.messages[-1].content
        asked.append(text)
        requests.append(request)
        if "Write one new request" in text:
            return WRITTEN[sum("Write one new request" in one for one in asked) - 1]
        rude = "lighthouse" in text or "yeast" in text
        digits = "It is 206." if "How many" in text or "year" in text else ""
        return digits or ("Go away." if rude else "?!" if "雨" in text else "Gladly, in words.")

    def judge(request):
        polite = "Go away" not in request.messages[-1].content
        return {"Yes": math.log(0.9 if polite else 0.1), "No": math.log(0.1 if polite else 0.9), "Unknown": -50.0}

    def opened(config):
        return ScriptedChatModel(policy if config.backend == "local" else judge)

    monkeypatch.setattr("rlaif.models.open.open_model", opened)
    return asked


def prompts_in(path) -> tuple[Prompt, ...]:
    """As a recipe reads the file."""
    return read_prompts(PromptsSection.unsplit(str(path))).train


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("principle", "kept"),
    [
        ("no-digits", [WRITTEN[0], WRITTEN[4]]),
        ("polite", [WRITTEN[2], WRITTEN[5]]),
        ("wordy", [WRITTEN[0], WRITTEN[2], WRITTEN[4], WRITTEN[5]]),
    ],
)
def test_what_breaks_the_principle_is_kept_and_nothing_else(tmp_path, models, principle, kept):
    run, out = run_of(tmp_path), tmp_path / "attacks.jsonl"
    done = command("redteam", run.folder, "--principle", principle, "--out", out, "--tries", 6, "--licence", "CC0-1.0")
    assert done.exit_code == 0, done.exception
    rows = read_jsonl(out, Attempt)
    assert sorted(row.prompt for row in rows) == sorted(kept)
    known = {prompt.id for prompt in read_prompts(small_recipe(tmp_path, "tiny", 8, prompts__heldout=2).prompts).train}
    for row in rows:
        assert row.success >= 0.9 and row.responses == 4 and row.principle == principle
        assert row.licence == "CC0-1.0" and set(row.seeds) <= known and len(row.seeds) == 3
    read = prompts_in(out)
    assert {prompt.messages[-1].content for prompt in read} == set(kept)
    assert all("redteam" in prompt.tags for prompt in read)


def test_what_was_refused_is_counted_and_nothing_found_is_exit_code_1(tmp_path, models, capsys):
    run = run_of(tmp_path)
    out = tmp_path / "a.jsonl"
    done = command("redteam", run.folder, "--principle", "no-digits", "--out", out, "--tries", 4, "--least", 1)
    assert done.exit_code == 0
    for line in ("1 (no reply)", "1 (near to a seed or to another)", "1 (does not break the principle)"):
        assert line in done.output
    models.clear()
    done = command("redteam", run.folder, "--principle", "polite", "--out", out, "--tries", 2)
    assert done.exit_code == 1 and "kept: 0 of 2" in done.output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-digit", "did you mean 'no-digits'"),
        ("plain", "says nothing of a single response"),
        ("warm", "no 'name' in the prompt's profile"),
    ],
)
def test_a_principle_that_cannot_be_broken_by_one_response_is_one_line(tmp_path, models, name, message):
    done = command("redteam", run_of(tmp_path).folder, "--principle", name, "--out", tmp_path / "a.jsonl")
    assert message in str(done.exception)


def attacked(folder: Path, *options: object, principle: str = "no-digits", **changes: Any) -> list[Attempt]:
    run, out = run_of(folder, **changes), folder / "attacks.jsonl"
    done = command("redteam", run.folder, "--principle", principle, "--out", out, "--tries", 6, *options)
    assert done.exit_code in (0, 1), done.exception
    return read_jsonl(out, Attempt)


def test_a_classifier_that_reads_the_prompt_is_given_it(tmp_path, models, monkeypatch):
    monkeypatch.setattr(Principle, "passes", lambda self, response, prompt=(): "year" not in prompt[-1].content)
    assert [row.prompt for row in attacked(tmp_path, principle="wordy")] == [WRITTEN[4]]


def test_a_veto_principle_has_the_same_success_as_any_other(tmp_path, models):
    rows = attacked(tmp_path, "--least", 0, principle="strict")
    assert [row.success for row in rows] == [0.9, 0.9, 0.1, 0.1], "the surest first"
    assert {row.tags for row in rows} == {("redteam", "hr")}


def test_the_target_is_asked_as_the_run_asks_it(tmp_path, models):
    """After the recipe's system turn, and drawn by the setting that its folder holds."""
    folder = tmp_path / "run" / "policy"
    folder.mkdir(parents=True)
    (folder / "generation_config.json").write_text('{"temperature": 0.125, "top_k": 7}')
    (folder / DECODE).write_text('{"system": null}')
    rows = attacked(tmp_path, prompts__system="Be brief.")
    answered = [one for one in models.requests if "Write one new request" not in one.messages[-1].content]
    assert {(one.messages[0].content, one.temperature) for one in answered} == {("Be brief.", 0.125)}
    assert all(one.shape and one.shape.top_k == 7 for one in answered)
    assert {prompt.messages[0].role for prompt in prompts_in(tmp_path / "attacks.jsonl")} == {"user"} and rows


@pytest.mark.parametrize("seeds", ["Why is the sea salty?", "なぜ空は青いのですか"])
def test_one_seed_is_enough_and_what_nobody_can_decide_is_counted(tmp_path, models, monkeypatch, seeds):
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": seeds}) + '\n{"prompt": " "}\n')
    monkeypatch.setattr("tests.test_redteam.WRITTEN", [*WRITTEN[:3], "雨はどうして降るのですか", *WRITTEN[4:]])
    run, out = run_of(tmp_path), tmp_path / "a.jsonl"
    words = ("--principle", "long", "--out", out, "--tries", 6, "--seeds", tmp_path / "one.jsonl")
    done = command("redteam", run.folder, *words)
    assert done.exit_code == 0, done.exception
    assert "seeds: 1 rows hold no prompt" in done.output and "undecided: 4 answers" in done.output
    assert "1 (no answer was decided)" in done.output
    assert {row.seed_set for row in read_jsonl(out, Attempt)} == {(str(tmp_path / "one.jsonl"),)}
    (tmp_path / "one.jsonl").write_text("")
    assert "prompts: no prompts in" in str(command("redteam", run.folder, *words).exception)


def test_diversity_is_symmetric_and_counts_seeds():
    seed = Prompt.of((Message(role="user", content="Why is the sky blue at noon?"),))
    texts = ["Why is the sky blue at dawn?", "What makes rivers bend on flat land?", "Why is the sky blue at noon"]
    kept, refused = different([(text, ()) for text in texts], [seed], 0.4)
    assert [text for text, _ in kept] == [texts[1]] and sum(refused.values()) == 2
    assert jaccard(shingles(texts[0]), shingles(texts[1])) == jaccard(shingles(texts[1]), shingles(texts[0])) == 0
    assert jaccard(shingles("a b"), shingles("A b.")) == 1


# ------------------------------------------------------------------------------------------------- hard prompts


GIVEN = Given(gold=("42",), profile={"name": "Ada"})


def judgment(number: int, p_a: float) -> Judgment:
    """Of a prompt as a run with a system turn has it."""
    plain = Prompt.of((Message(role="user", content=f"Say {number}"),), ("t",), GIVEN if number == 3 else None)
    asked = with_system(plain, "Be brief.")
    pair = Pair.of(asked, f"one {number}", f"two {number}")
    decided = PrincipleJudgment(principle="p", p_a=p_a, checked=True)
    return Judgment(pair=pair, source="ai", annotator="j", p_a=p_a, principles=(decided,))


def test_planted_hard_prompts_are_mined(tmp_path, monkeypatch):
    """Five prompts are hard, each by another sign or two; twenty are not."""
    data = {"kind": "file", "path": str(tmp_path / "people.jsonl")}
    run = run_of(tmp_path, prompts__system="Be brief.", preferences__labels={"kind": "mix", "human_data": [data]})
    out = tmp_path / "hard.jsonl"
    sure = [judgment(i, 0.95 if i % 2 else 0.05) for i in range(25)]
    sure[3], sure[7] = judgment(3, 0.51), judgment(7, 0.5)
    write_jsonl(run.judgments, sure)
    run.reward_model.mkdir()
    ids = [one.pair.id for one in sure]
    margins = [dict.fromkeys(ids, 6.0), dict.fromkeys(ids, 5.0)]
    margins[0][ids[11]], margins[1][ids[11]] = 0.01, -0.02  # near each other
    margins[0][ids[13]], margins[1][ids[13]] = 6.0, -6.0  # members differ
    monkeypatch.setattr(mining, "_margins", lambda recipe, run, pairs: margins)
    people = [preferred(sure[17].pair, sure[17].p_a < 0.5), preferred(sure[18].pair, sure[18].p_a > 0.5)]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    done = command("mine", run.folder, "--out", out, "--prompts", 5)
    assert done.exit_code == 0, done.exception
    rows = read_jsonl(out, mining.Hard)
    assert {row.messages[-1].content for row in rows} == {f"Say {i}" for i in (3, 7, 11, 13, 17)}
    assert {row.sign for row in rows} >= {"tie", "members", "people"}
    assert "tie: 25 pairs" in done.output and "people: 2 pairs" in done.output
    read = prompts_in(out)
    assert len(read) == 5 and all(prompt.tags == ("t",) for prompt in read)
    assert {prompt.id for prompt in read} == {sure[i].pair.prompt_id for i in (3, 7, 11, 13, 17)}, "the same prompts"
    assert [prompt.given for prompt in read if prompt.given] == [GIVEN]
    done = command("mine", run.folder, "--out", out, "--prompts", 2, "--by", "margin")
    assert {row.messages[-1].content for row in read_jsonl(out, mining.Hard)} == {"Say 11", "Say 13"}, "of the mean"
    done = command("mine", run.folder, "--out", out, "--prompts", 2, "--by", " tie")
    assert {row.messages[-1].content for row in read_jsonl(out, mining.Hard)} == {"Say 3", "Say 7"}


def preferred(pair: Pair, a: bool) -> dict[str, str]:
    """A row of a person who prefers one of them."""
    chosen, rejected = (pair.a, pair.b) if a else (pair.b, pair.a)
    return {"prompt": pair.prompt[-1].content, "chosen": chosen, "rejected": rejected}


def test_a_sign_that_is_none_and_a_run_without_judgments_are_one_line(tmp_path):
    run, out = run_of(tmp_path), tmp_path / "hard.jsonl"
    assert "did you mean 'margin'" in str(command("mine", run.folder, "--out", out, "--by", "margins").exception)
    assert "run its stage label first" in str(command("mine", run.folder, "--out", out).exception)
