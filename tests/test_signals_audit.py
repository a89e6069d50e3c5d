"""What classifiers say of rows of a file, which of them are kept, and limits fitted where the truth is planted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlaif.audits.signals import FEW, calibrate, cells, kept, measure, read_answers
from rlaif.cli import app
from rlaif.errors import ConfigError, DataError
from rlaif.strict_yaml import parse_yaml
from rlaif.words import NONE
from tests.test_classifier import save
from tests.test_signals_used import BOIL, NEAR, constitution

WORDS = {"kind": "keywords", "words": ["x"], "share_of": "text"}


def rows(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def turn(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def labelled(path: Path, passes: Any, count: int = 120) -> Path:
    """Rows with a share of x among ten words; `passes` says of the number of x whether the row passes."""
    draw = random.Random(0)
    found = []
    for i in range(count):
        x = draw.randrange(11)
        words = ["x"] * x + ["y"] * (10 - x)
        found.append({"prompt": f"Say {i}", "response": " ".join(words), "passes": passes(x)})
    return rows(path, *found)


def test_rows_of_any_file_are_measured_and_those_that_pass_are_kept(tmp_path: Path) -> None:
    egg = "How do I boil an egg?"
    file = rows(
        tmp_path / "rows.jsonl",
        {"prompt": egg, "response": BOIL},
        {"prompt": turn(egg, "user"), "text": "The parliament met on Monday.", "more": 1},
        {"prompt": turn(egg, "user"), "chosen": turn(BOIL), "rejected": turn("?")},
        {"completion": turn(BOIL)},
    )
    answers = read_answers(file)
    found = measure(constitution(NEAR, {"kind": "repetition", "at_most": 0.5}), answers)
    assert [list(one.passes.values()) for one in found] == [[True, False, True, None], [True] * 4]
    assert cells(found[0])[:4] == ("p0", "similarity", "4", "67%") and cells(found[0])[-1] == "1"
    chosen, failed, undecided = kept(answers, found)
    assert (chosen, failed, undecided) == ([answers[0].row, answers[2].row], 1, 1)
    elsewhere = measure(constitution(NEAR, tags=["never"]), answers)
    assert cells(elsewhere[0])[2:4] == ("0", NONE)
    assert kept(answers, elsewhere)[0] == [answer.row for answer in answers]


@pytest.mark.parametrize("key", ["at_least", "at_most"])
def test_the_planted_limit_is_found_from_either_side(key: str, tmp_path: Path) -> None:
    def passes(x: int) -> bool:
        return x >= 7 if key == "at_least" else x < 7

    found = calibrate(constitution(WORDS | {key: 0.2}), "p0", read_answers(labelled(tmp_path / "r.jsonl", passes)))
    assert getattr(found.signal, key) == pytest.approx(0.65)
    assert found.after.value == 1 and found.before.value < 0.9
    assert found.fitted_on + found.after.n == 120 and found.undecided == 0


def test_the_planted_temperature_is_found(tmp_path: Path) -> None:
    """Labels are drawn with the probability that the classifier's outputs, divided by three, say."""
    folder = save(tmp_path / "model", ["letters", "digits"])
    signal = {"kind": "model", "model": folder, "labels": {"digits": 1}, "at_least": 0.5}
    draw = random.Random(1)
    from rlaif.signals.kinds import Model

    truth = Model.model_validate(signal | {"temperature": 3.0})
    texts = ["".join(draw.choices("1a2b", k=draw.randrange(1, 9))) for _ in range(500)]
    items = [{"prompt": t, "response": t, "passes": draw.random() < (truth.number(t, ()) or 0)} for t in texts]
    found = calibrate(constitution(signal), "p0", read_answers(rows(tmp_path / "r.jsonl", *items)))
    assert 1.8 < found.signal.temperature < 5


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    answers = read_answers(labelled(tmp_path / "r.jsonl", lambda x: x > 5))
    rules = constitution(WORDS | {"at_least": 0.5})
    with pytest.raises(ConfigError, match="no principle 'p1' with a classifier; did you mean 'p0'"):
        calibrate(rules, "p1", answers)
    with pytest.raises(ConfigError, match="both at_least and at_most"):
        calibrate(constitution(WORDS | {"at_least": 0.1, "at_most": 0.9}), "p0", answers)
    with pytest.raises(DataError, match=f"at least {FEW} of each kind"):
        calibrate(rules, "p0", answers[:30])
    with pytest.raises(DataError, match=r"r.jsonl:1: passes must be true or false \(got 'yes'\)"):
        calibrate(rules, "p0", read_answers(labelled(tmp_path / "r.jsonl", lambda x: "yes")))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no response, text, completion or chosen"):
        read_answers(rows(tmp_path / "rows.jsonl", {"prompt": "a"}))
    for tags in ("p0", [1]):
        with pytest.raises(DataError, match=r"rows\.jsonl:1: tags: must be a list of texts"):
            read_answers(rows(tmp_path / "rows.jsonl", {"text": "a", "tags": tags}))
    for said in ([], turn("a", "user")):
        with pytest.raises(DataError, match=r"rows\.jsonl:1: text does not end with an assistant turn"):
            read_answers(rows(tmp_path / "rows.jsonl", {"text": said}))
    (answer,) = read_answers(rows(tmp_path / "rows.jsonl", {"chosen": [*turn("Why?", "user"), *turn("So.")]}))
    assert (answer.text, [message.content for message in answer.prompt]) == ("So.", ["Why?"])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: a message has no known role"):
        read_answers(rows(tmp_path / "rows.jsonl", {"text": [{"role": "x", "content": "y"}]}))


def test_the_commands(tmp_path: Path) -> None:
    rules = tmp_path / "c.yaml"
    rules.write_text(
        "schema: rlaif/constitution/v1\nid: c\nversion: 1.0.0\ntitle: T\nprinciples:\n"
        "  - {id: few-x, classifier: {kind: keywords, words: [x], share_of: text, at_most: 0.2}}\n"
    )
    file, out = labelled(tmp_path / "r.jsonl", lambda x: x < 7), tmp_path / "kept.jsonl"
    done = CliRunner().invoke(app, ["constitution", "measure", str(rules), str(file), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "few-x" in done.output and f"{out}: " in done.output and "0 not decided" in done.output
    done = CliRunner().invoke(app, ["constitution", "measure", str(rules), str(file), "--out", str(file)])
    assert "is the file that is read" in str(done.exception) and len(file.read_text().splitlines()) == 120
    left = [json.loads(line) for line in out.read_text().splitlines()]
    assert left and all(row["response"].count("x") <= 2 for row in left)
    done = CliRunner().invoke(app, ["constitution", "calibrate", str(rules), "few-x", str(file)])
    assert done.exit_code == 0, done.output
    assert "100%" in done.output
    section = next(line for line in done.output.splitlines() if line.startswith("classifier: "))
    wanted = {"kind": "keywords", "words": ["x"], "share_of": "text", "at_most": 0.65}
    assert parse_yaml(section)[1] == {"classifier": wanted}  # to put into the constitution as it is
