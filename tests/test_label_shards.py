"""Labelling in shards: the same pairs and rows as from whole lists, files that appear whole, and a kill that costs
little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.feedback import LabelSection
from rlaif.constitution import Constitution
from rlaif.errors import DataError, JudgeError
from rlaif.feedback.judge import judge_shards
from rlaif.feedback.judge.revise import first_responses
from rlaif.feedback.judge.shards import shards
from rlaif.feedback.pairs import make_pairs
from rlaif.jsonl import RowWriter, stream_jsonl, write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.pipeline import run_recipe
from rlaif.records import Message, Pair, Prompt, Response
from rlaif.run_folder import Run
from rlaif.stages.labels import Again, SampledPairs, responses_by_prompt
from rlaif.testing import small_recipe
from tests import scripted_judge
from tests.test_modes import judged, recipe_with

PROMPTS = [Prompt.of((Message(role="user", content=f"q{n}"),), ("t",) if n % 2 else ()) for n in range(4)]


def response(prompt: int, index: int, text: str | None = None) -> Response:
    one = PROMPTS[prompt]
    return Response(
        id=f"{prompt}-{index}",
        prompt_id=one.id,
        prompt=one.messages,
        tags=one.tags,
        index=index,
        text=f"text {index}" if text is None else text,
        finished=True,
        tokens=2,
        model="policy",
    )


IN_ORDER = [response(p, i, "same" if (p, i) in {(1, 0), (1, 2)} else None) for p in range(4) for i in range(3)]
MIXED = [IN_ORDER[place] for place in (3, 0, 9, 1, 4, 6, 10, 2, 5, 7, 11, 8)]


@pytest.mark.parametrize("rows", [IN_ORDER, MIXED, IN_ORDER[::-1], []])
def test_pairs_are_streamed_as_they_were_made_from_the_whole(rows: list[Response], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "responses.jsonl", rows)
    groups = responses_by_prompt(tmp_path / "responses.jsonl")
    prompts = {r.prompt_id: Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags) for r in rows}
    assert [group[0].prompt_id for group in groups] == list(prompts)
    assert [one for group in groups for one in first_responses(group, 2)] == first_responses(rows, 2)
    recipe = small_recipe(tmp_path, "model", label__pairs_per_prompt=2)
    sampled = SampledPairs(recipe, tmp_path / "responses.jsonl")
    expected = make_pairs(list(prompts.values()), rows, 2, recipe.seed)
    assert list(sampled) == list(sampled) == expected
    assert sampled.total == sampled.made == len(expected)


def test_a_row_that_is_none_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, IN_ORDER[:2])
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(DataError, match=r"rows.jsonl:3: id"):
        list(stream_jsonl(path, Response))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(stream_jsonl(tmp_path / "none.jsonl", Response))


def test_a_shard_ends_where_a_prompt_does_also_if_its_pairs_lie_apart() -> None:
    def pairs(*prompts: int) -> list[Pair]:
        return [Pair.of(PROMPTS[n], "a", f"b{place}") for place, n in enumerate(prompts)]

    def sizes(found: Iterator[list[Pair]]) -> list[int]:
        return [len(shard) for shard in found]

    assert sizes(shards(pairs(0, 0, 0, 1, 2, 2, 3), 2)) == [3, 3, 1]
    assert sizes(shards(pairs(0, 1, 2, 0, 3), 1)) == [4, 1]
    assert sizes(shards([], 1)) == []


def test_the_rows_of_a_shard_are_there_before_more_pairs_are_taken() -> None:
    """What memory holds is a shard of pairs and its rows, however many pairs there are."""
    taken = 0

    def pairs() -> Iterator[Pair]:
        nonlocal taken
        for number in range(5000):
            taken += 1
            yield Pair.of(Prompt.of((Message(role="user", content=f"q{number}"),)), "a 1", "b")

    rules = Constitution.model_validate(
        {
            "schema": "rlaif/constitution/v1",
            "id": "digits",
            "title": "No digits",
            "version": "1.0.0",
            "principles": [{"id": "none", "check": {"kind": "regex_absent", "pattern": "[0-9]"}}],
        }
    )
    silent = ScriptedChatModel(lambda request: Reply(error="code decides"))
    results = judge_shards(lambda _: nullcontext(silent), Again(pairs), rules, LabelSection(), seed=0)
    done = 0
    for result in results:
        assert taken - done <= 2001
        done += len(result.judgments)
    assert done == taken == 5000


def test_rows_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with closing(RowWriter(path)) as file:
        file.write([{"a": 1}])
        assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"], "closed before its end, it leaves nothing"
    with closing(RowWriter(path)) as file:
        file.write([{"a": 1}])
        file.write([{"b": "\u00e4"}])
        file.finish()
    assert path.read_text() == '{"a": 1}\n{"b": "\u00e4"}\n'
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]


CLOCK = {"asked": 0, "dies at": 0}


def mortal(request: ChatRequest) -> Any:
    """The judge of tests, which may die."""
    CLOCK["asked"] += 1
    if CLOCK["asked"] == CLOCK["dies at"]:
        raise KeyboardInterrupt
    return scripted_judge.every_part(request)


@pytest.mark.parametrize("mode", [{"kind": "compare"}, {"kind": "score"}, {"kind": "revise"}])
def test_a_killed_label_stage_goes_on_to_the_same_bytes(
    mode: dict[str, Any], tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.feedback.judge.SHARD", 4)
    monkeypatch.setattr("rlaif.stages.feedback.SHARD", 4)
    recipe = recipe_with(tmp_path, tiny_folder, mode)
    recipe = recipe.model_copy(update={"judge": recipe.judge.model_copy(update={"model": f"{__name__}:mortal"})})
    responses = run_recipe(recipe, tmp_path / "sampled", ["sample"]).responses

    def label(folder: str, dies_at: int) -> int:
        monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / f"{folder}.sqlite"))
        CLOCK.update({"asked": 0, "dies at": dies_at})
        if (tmp_path / folder).exists():
            run_recipe(recipe, tmp_path / folder, ["label"])
        else:
            judged(recipe, tmp_path / folder, responses, ["label"])
        return CLOCK["asked"]

    whole = label("whole", 0)
    with pytest.raises(KeyboardInterrupt):
        label("killed", whole // 2)
    assert not Run(tmp_path / "killed").judgments.exists()
    assert label("killed", 0) <= whole - whole // 2 + 1, "what was answered is not asked again"
    for name in ("judgments.jsonl", "failures.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_nothing_more_is_asked_once_too_many_failed(
    tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.feedback.judge.SHARD", 4)
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": "compare"})
    responses = run_recipe(recipe, tmp_path / "sampled", ["sample"]).responses
    broken = recipe.judge.model_copy(update={"model": "tests.scripted_judge:says_nothing"})
    with pytest.raises(JudgeError, match="pairs have no judgment"):
        judged(recipe.model_copy(update={"judge": broken}), tmp_path / "run", responses, ["label"])
    run = Run(tmp_path / "run")
    failures = run.failures.read_text().splitlines()
    assert 0 < len({line.split('"id": ')[1].split(",")[0] for line in failures}) <= 6
    assert not run.judgments.exists()
