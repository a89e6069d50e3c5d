"""What `max_length` takes from what is learnt: counted by cause, said, and held against a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config.optimise import Dpo, Sft
from rlaif.config.reward import Regression
from rlaif.errors import DataError
from rlaif.jsonl import write_jsonl
from rlaif.models.local.packing import Row
from rlaif.records import Preference, Score
from rlaif.run_folder import Run
from rlaif.stages.optimise import optimise
from rlaif.stages.reward import reward
from rlaif.testing import tiny_tokenizer
from rlaif.training.lessons import Text
from rlaif.training.offline import SftExample, SftMethod
from rlaif.training.reward.data import encode_pairs, pair_lessons, rating_lessons
from rlaif.training.truncation import Truncation
from tests.tiny_training import preference, prompt, reward_section, tiny_recipe

TOKENIZER = tiny_tokenizer()
LONG = "once there was a king " * 4
SHORT = preference("Hi", "good", "bad")
SAME = preference("Tell", LONG + "kind", LONG + "cruel")
ONE_SIDE = preference("Tell", LONG, "no")
LATE = preference("Tell", "abc " + LONG, "xyz " + LONG)
PROMPT = preference("Tell me " * 20, "good", "bad")
EQUAL = preference("Hi", "good", "good")


def fits(*rows: Preference) -> int:
    return max(len(row.prompt) + len(row.response) for pair in encode_pairs(TOKENIZER, rows, 10**6) for row in pair[1:])


def counted(rows: list[Preference], max_length: int = 64, **knobs: Any) -> dict[str, int]:
    truncation = Truncation("reward", reward_section(max_length=max_length, **({"max_truncated": 1} | knobs)))
    encode_pairs(TOKENIZER, rows, max_length, truncation)
    return truncation.facts()


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (SHORT, {}),
        (EQUAL, {"same_tokens": 1}),
        (PROMPT, {"truncated": 1, "prompts_cut": 1}),
        (ONE_SIDE, {"truncated": 1, "prompts_cut": 1, "responses_cut": 1, "one_side_cut": 1}),
        (LATE, {"truncated": 1, "prompts_cut": 1, "responses_cut": 1}),
        (SAME, {"truncated": 1, "prompts_cut": 1, "responses_cut": 1, "same_after_cut": 1}),
    ],
)
def test_each_cause_is_counted(row: Preference, facts: dict[str, int]) -> None:
    assert counted([row]) == facts
    assert counted([row, SHORT, row]) == {name: 2 * number for name, number in facts.items()}


def test_what_just_fits_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    length = fits(SHORT)
    assert counted([SHORT], length) == {}
    assert counted([SHORT], length - 1)["truncated"] == 1
    assert "1 of 1 pairs are longer than reward.max_length" in capsys.readouterr().out


def test_only_what_fills_the_length_is_encoded_again() -> None:
    truncation = Truncation("reward", reward_section(max_length=4))

    def never(_length: int) -> list[Row]:
        raise AssertionError("encoded again")

    truncation.saw([Row((1, 2), (3,))], never)
    with pytest.raises(AssertionError):
        truncation.saw([Row((1, 2), (3, 4))], never)


def test_more_than_the_limit_is_an_error_that_names_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert counted([SAME, SHORT], max_truncated=0.5)["same_after_cut"] == 1
    assert " ".join(capsys.readouterr().out.split()) == (
        "1 of 2 pairs are longer than reward.max_length=64: 1 are the same after it and teach nothing, "
        "1 lost the end of a response, 1 lost the beginning of the prompt"
    )
    with pytest.raises(DataError, match=r"2 of 3 pairs .*66.7%, limit 50.0%\); raise reward.max_length, or reward"):
        counted([SAME, LATE, SHORT], max_truncated=0.5)
    with pytest.raises(DataError, match=r"limit 0.0%"):
        counted([PROMPT, SHORT, SHORT], max_truncated=0)


def test_nothing_left_after_the_cut_names_the_length_and_not_ties() -> None:
    section = reward_section(max_length=64)
    with pytest.raises(DataError, match=r"reward.max_length=64: 1 are the same"):
        pair_lessons(TOKENIZER, [SAME], section, truncation=Truncation("reward", section))


def test_ratings_and_demonstrations_are_counted_too() -> None:
    section = reward_section(max_length=64, loss=Regression())
    made = [
        Score.model_construct(id=text, prompt_id="q", prompt=prompt("Hi").messages, text=text, value=0.5)
        for text in (LONG, "good")
    ]
    ratings = Truncation("reward", section, "ratings")
    assert len(rating_lessons(TOKENIZER, made, [], 64, ratings)) == 2
    assert ratings.facts() == {"truncated": 1, "prompts_cut": 1, "responses_cut": 1}
    shown = [SftExample("q", prompt("Hi").messages, Text(text)) for text in (LONG, LONG, "good")]
    demonstrations = Truncation("optimise", Sft(max_length=64), "demonstrations")
    with pytest.raises(DataError, match=r"2 of 3 demonstrations are longer than optimise.max_length=64"):
        SftMethod.of(TOKENIZER, shown, 64, demonstrations)


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_a_stage_stops_before_it_trains_on_what_is_mostly_cut(method: str, tmp_path: Path, tiny_folder: str) -> None:
    sections = {"reward": reward_section(max_length=64), "optimise": Dpo(max_length=64)}
    recipe, run = tiny_recipe(tiny_folder, **sections), Run(tmp_path)
    write_jsonl(run.preferences, [SAME, ONE_SIDE, SHORT])
    place = "reward" if method == "reward" else "optimise"
    with pytest.raises(DataError, match=rf"2 of 3 pairs are longer than {place}.max_length=64: .*, or {place}.max_"):
        {"reward": reward, "dpo": optimise}[method](recipe, run)


def test_the_manifest_gets_the_counts(tmp_path: Path, tiny_folder: str) -> None:
    recipe, run = tiny_recipe(tiny_folder, reward=reward_section(max_length=64, epochs=1)), Run(tmp_path)
    heldout = ONE_SIDE.model_copy(update={"split": "heldout"})
    write_jsonl(run.preferences, [SAME, SHORT, preference("Hi", "good", "worse"), heldout])
    facts = reward(recipe, run)
    assert {name: facts.get(name) for name in ("pairs", "same_after_cut", "heldout_pairs", "heldout_one_side_cut")} == {
        "pairs": 2,
        "same_after_cut": 1,
        "heldout_pairs": 1,
        "heldout_one_side_cut": 1,
    }
