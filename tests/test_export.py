"""Preferences written for other programs: loaded as they load them, trained on, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset

from rlaif.config.feedback import PreferencesSection
from rlaif.config.sources import FileSource
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.export import FORMATS, argilla_row, export_preferences, openrlhf_chat_row, trl_implicit_row, trl_row
from rlaif.feedback.human import read_human, read_labels
from rlaif.feedback.pairs import WeightedJudgment, read_preferences, to_preferences
from rlaif.formats import FORMATS as FORMS
from rlaif.formats import AnyForm, HumanFile, HumanHub
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.jsonl import read_objects, write_jsonl
from rlaif.records import Message, Preference, Prompt, oriented, plain
from rlaif.run_folder import Run
from rlaif.testing import tiny_tokenizer
from rlaif.training.losses.preference import bradley_terry_loss
from rlaif.training.reward.train import RewardStage, train_reward_model
from tests.tiny_training import preference, reward_section, same, tiny_scalar, tiny_tracker, weights

NO_RUN = Run(Path("no-run"))
TALK = (
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Why?"),
)
SYSTEM = (Message(role="system", content="Be brief."), *TALK)
ROWS = [
    preference("Name a fruit.", "A pear.", "A stone.", source="human"),
    preference("Name a nut.", "A hazel.", "A bolt.", source="human"),
    preference("Name a bird.", "A wren.", "A bat.", p_chosen=0.8),
    preference("Name a tree.", "An elm.", "A yew.", p_chosen=0.5, source="human"),
    preference("Name a king.", "Lear.", "Cole.", split="heldout", source="human"),
    preference("Hi", "Because.", "No.", source="human").model_copy(update={"prompt": TALK}),
    preference("Ho", "Because.", "No.", source="human").model_copy(update={"prompt": SYSTEM}),
    preference("Name a fish.", "A carp.", "A whale.", p_chosen=0.55, source="human"),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    write_jsonl(made.preferences, ROWS)
    return made


def load(path: Path, cache: Path) -> Dataset:
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def test_each_format_has_exactly_its_own_columns() -> None:
    row = ROWS[2]
    prompt = [{"role": "user", "content": "Name a bird."}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("A wren.", "A bat."))
    sides = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert trl_row(row) == sides | {"p_chosen": 0.8}
    assert trl_implicit_row(row) == {"chosen": prompt + chosen, "rejected": prompt + rejected, "p_chosen": 0.8}
    margin = openrlhf_chat_row(row)["margin"]
    assert margin == pytest.approx(0.6, abs=1e-12)
    assert openrlhf_chat_row(row) == {"chosen": prompt + chosen, "rejected": prompt + rejected, "margin": margin}


@pytest.mark.parametrize("to", ["trl", "trl-implicit", "openrlhf-chat"])
def test_held_out_rows_are_apart_and_ties_are_said(to: str, run: Run, cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, shown, _ = cli("export", str(run.folder), "--to", to, "--out", "out.jsonl")
    heldout = tmp_path / "out.heldout.jsonl"
    assert code == 0 and shown.splitlines() == [
        "out.jsonl: 6 rows",
        "out.heldout.jsonl: 1 rows, held out",
        f"1 ties left out: {to} has no place for them",
    ]
    assert len(load(out, tmp_path / "cache")) == 6
    assert [row for _, row in read_objects(heldout)] == [FORMATS[to].row(ROWS[4])]
    assert export_preferences(run.preferences, to, out) == (6, 1, heldout, 1, 0)  # the file itself does as well


def score(model: Any, conversation: list[dict[str, str]]) -> torch.Tensor:
    """As TRL and OpenRLHF score a row: the chat template over all turns, then the head at the last token."""
    ids = tiny_tokenizer().apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
    states = model.backbone(input_ids=torch.tensor([ids])).last_hidden_state
    return model.head(states[0, -1])[0]


def margins(model: Any, table: Dataset) -> torch.Tensor:
    """Chosen minus rejected, of rows with the prompt beside the sides or inside them."""
    sides = [[(row.get("prompt") or []) + row[side] for row in table] for side in ("chosen", "rejected")]
    chosen, rejected = (torch.stack([score(model, talk) for talk in side]) for side in sides)
    return chosen - rejected


@pytest.mark.parametrize("to", ["trl", "trl-implicit", "openrlhf-chat"])
def test_one_step_on_the_loaded_file_teaches(to: str, run: Run, tmp_path: Path, tiny_folder: str) -> None:
    export_preferences(run.folder, to, tmp_path / "out.jsonl")
    table = load(tmp_path / "out.jsonl", tmp_path / "cache")
    model = tiny_scalar(tiny_folder)
    optimiser = torch.optim.AdamW([*model.backbone.parameters(), *model.head.parameters()], lr=1e-3)
    ones = torch.ones(len(table))

    def loss() -> torch.Tensor:
        return bradley_terry_loss(margins(model, table), ones, ones).mean()

    before = loss()
    before.backward()
    optimiser.step()
    assert loss().item() < before.item() - 1e-3


def test_both_trl_formats_are_the_same_conversations(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    tables = []
    for to in ("trl", "trl-implicit"):
        export_preferences(run.folder, to, tmp_path / f"{to}.jsonl")
        tables.append(load(tmp_path / f"{to}.jsonl", tmp_path / "cache"))
    model = tiny_scalar(tiny_folder)
    assert torch.equal(*(margins(model, table) for table in tables))


def people(rows: list[Preference]) -> dict[tuple[str, str], tuple[Any, float]]:
    """What is preferred on each pair, in people's rows."""
    return labels([row for row in rows if row.source == "human"])


def labels(rows: list[Preference]) -> dict[tuple[str, str], tuple[Any, float]]:
    """What is preferred on each pair, and by whom."""
    return {
        (row.source, row.pair_id): ({row.chosen, row.rejected} if row.p_chosen == 0.5 else row.chosen, row.p_chosen)
        for row in rows
    }


def as_read(source: Any) -> list[Preference]:
    data = read_human([source], NO_RUN)
    assert not data.failures
    section = PreferencesSection(ties="keep")
    return list(to_preferences([WeightedJudgment(judgment, 1.0) for judgment in data.judgments], section).rows)


def with_own_ids(rows: list[Preference]) -> list[Preference]:
    """The rows under the ids that their content has, as reading gives them."""
    return [
        row.model_copy(update={"pair_id": oriented(Prompt.of(row.prompt), *texts).id})
        for row in rows
        for texts in [(row.chosen[-1].content, row.rejected[-1].content)]
    ]


def test_what_argilla_gets_reads_back_as_the_same_preferences(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert export_preferences(run.folder, "argilla", out).rows == 8
    source = HumanFile.model_validate({"path": str(out), "form": {"kind": "argilla"}})
    assert people(as_read(source)) == people(with_own_ids(ROWS))
    assert read_human([source], NO_RUN).counts == {"rows": 8, "unanswered": 1, "suggested": 1}  # the judge's


@pytest.mark.parametrize(("to", "name"), [("argilla", "out.jsonl"), ("label-studio", "out.json")])
def test_a_judges_labels_are_read_where_somebody_asks(
    to: str, name: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    export_preferences(run.folder, to, out)
    expected = with_own_ids([row for row in ROWS if to == "argilla" or row.p_chosen > 0.5])
    form = {"kind": to.replace("-", "_")}
    asked = HumanFile.model_validate({"path": str(out), "form": form | {"judges": True}})
    assert labels(as_read(asked)) == labels(expected)
    assert "suggested" not in read_human([asked], NO_RUN).counts
    capsys.readouterr()
    assert labels(as_read(HumanFile.model_validate({"path": str(out), "form": form}))) == people(expected)
    assert "1 rows have no person's answer, and a judge's is not read; form:" in capsys.readouterr().out
    everybody = read_labels(out)  # as `rlaif annotators report` does
    assert sorted((one.source, one.annotator) for one in everybody if one.source == "ai") == [("ai", "rlaif")]
    assert len(everybody) == len(expected)


def test_a_file_of_a_judges_labels_alone_says_how_it_is_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "preferences.jsonl", [row for row in ROWS if row.source == "ai"])
    export_preferences(tmp_path / "preferences.jsonl", "argilla", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"not one usable pair: .*suggested 1.*judges: true"):
        read_human([AnyForm(path=str(tmp_path / "out.jsonl"))], NO_RUN)


@pytest.mark.parametrize("to", FORMATS)
def test_a_row_with_an_empty_side_is_left_out_and_said(to: str, cli: Any, tmp_path: Path) -> None:
    """Readers take no such row for a pair, ours neither."""
    odd = [
        preference("a", " \n", "Something."),
        preference("b", "Something.", ""),
        preference("c", "The same.", "The same. \n"),
        preference("d", "", "Held out.", split="heldout"),
    ]
    write_jsonl(tmp_path / "p.jsonl", [*odd, ROWS[0]])
    code, shown, _ = cli("export", "p.jsonl", "--to", to, "--out", "out.json")
    assert code == 0 and shown.splitlines()[:2] == [
        "out.json: 1 rows",
        "4 rows left out: a side is empty, or both are the same but for white space",
    ]
    assert not (tmp_path / "out.heldout.json").exists()
    write_jsonl(tmp_path / "p.jsonl", odd)
    code, _, error = cli("export", "p.jsonl", "--to", to, "--out", "none.json")
    assert code == 2 and "no row to write (4 rows, 0 of them ties, 4 with an empty side)" in error
    data = HumanData.empty()
    FORMS["comparisons"]().read(
        [SourceRow("x:1", trl_row(row)) for row in odd], Sheet(FileSource(path="x"), None, data)
    )
    assert len(data.failures) == 4, "the reader's rule"


def test_suggestions_of_other_programs() -> None:
    """Flattened records, another agent, one without a name, and a rating; a prediction of another model."""
    fields = {"instruction": "q", "response1": "one", "response2": "two"}
    flat = fields | {"ranking.responses": None, "ranking.suggestion": ["response2", "response1"]}
    nested = {"fields": fields, "responses": {}, "suggestions": {"ranking": {"value": ["response1", "response2"]}}}
    task = {"prompt": "q", "text1": "one", "text2": "two", "p_chosen": 0.7}
    result = [{"type": "pairwise", "value": {"selected": "right"}}]
    studio = {"data": task, "annotations": [], "predictions": [{"model_version": "other", "result": result}]}
    for row, kind, annotator, p_one in (
        (flat | {"ranking.suggestion.agent": "gpt"}, "argilla", "gpt", 0.0),
        (nested, "argilla", "judge", 1.0),
        (studio, "label_studio", "other", 0.0),
    ):
        data = HumanData.empty()
        form = FORMS[kind].model_validate({"judges": True})
        form.read([SourceRow("x:1", row)], Sheet(FileSource(path="x"), None, data))
        (judgment,) = data.judgments
        assert (judgment.source, judgment.annotator, judgment.p_of("one")) == ("ai", annotator, p_one)


@pytest.mark.parametrize("to", ["trl", "trl-implicit", "openrlhf-chat"])
def test_what_trainers_get_reads_back_as_the_same_preferences(to: str, run: Run, tmp_path: Path) -> None:
    export_preferences(run.folder, to, tmp_path / "out.jsonl")
    rows = as_read(HumanFile(path=str(tmp_path / "out.jsonl")))
    expected = [row for row in with_own_ids(ROWS) if row.p_chosen > 0.5 and row.split == "train"]
    assert {r.pair_id: (r.chosen, r.p_chosen) for r in rows} == {r.pair_id: (r.chosen, r.p_chosen) for r in expected}


def test_a_step_on_what_argilla_gets(
    run: Run, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded with `datasets`, read by the reader, learnt by our own loop."""
    export_preferences(run.folder, "argilla", tmp_path / "out.jsonl")
    table = load(tmp_path / "out.jsonl", tmp_path / "cache")
    monkeypatch.setattr("datasets.load_dataset", lambda path, **knobs: table)
    rows = as_read(HumanHub.model_validate({"dataset": "some/set", "form": {"kind": "argilla"}}))
    assert people(rows) == people(with_own_ids(ROWS))
    model = tiny_scalar(tiny_folder)
    before = weights(model.backbone)
    stage = RewardStage(model, tiny_tokenizer(), reward_section(epochs=1, minibatch_size=64), seed=1)
    train_reward_model(stage, rows, tmp_path / "checkpoints", tiny_tracker(tmp_path / "log", "reward", 1))
    assert not same(before, weights(model.backbone))


def test_argilla_records_are_blind_and_say_who_labelled() -> None:
    rows = [preference(f"q{i}", "good", "bad", source="human" if i % 2 else "ai", p_chosen=0.75) for i in range(40)]
    records = [argilla_row(row) for row in rows]
    first = [record["fields"]["response1"] for record in records]
    assert 10 <= first.count("good") <= 30
    for row, record in zip(rows, records, strict=True):
        suggestion = record["suggestions"]["ranking"]
        assert [record["fields"][name] for name in suggestion["value"]] == ["good", "bad"]
        agent = "rlaif" if row.source == "ai" else "rlaif: people"
        assert (suggestion["score"], suggestion["agent"], record["responses"]) == ([0.75, 0.25], agent, {})


def test_the_argilla_sdk_takes_the_records() -> None:
    rg = pytest.importorskip("argilla", reason="argilla is no dependency")
    for row in ROWS:
        record = rg.Record.from_dict(json.loads(json.dumps(argilla_row(row)))).to_dict()
        assert record["fields"] == argilla_row(row)["fields"]


def test_trl_takes_the_rows() -> None:
    data_utils = pytest.importorskip("trl.data_utils", reason="TRL is no dependency")
    for row in ROWS:
        assert data_utils.is_conversational(trl_row(row))
        assert data_utils.extract_prompt(trl_implicit_row(row))["prompt"] == plain(row.prompt)


def test_what_cannot_be_exported_is_one_clear_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to trl_implicit: no such format; did you mean 'trl-implicit'\?"):
        export_preferences(run.folder, "trl_implicit", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"preferences.jsonl: no such file"):
        export_preferences(tmp_path, "trl", tmp_path / "out.jsonl")
    before = run.preferences.read_bytes()
    for source in (run.folder, run.preferences):
        with pytest.raises(ConfigError, match=r"preferences.jsonl: is the source, which it would replace"):
            export_preferences(source, "trl", run.folder / "." / "preferences.jsonl")
    assert run.preferences.read_bytes() == before
    write_jsonl(run.preferences, [ROWS[3]])
    with pytest.raises(DataError, match=r"no row to write \(1 rows, 1 of them ties, 0 with an empty side\)$"):
        export_preferences(run.folder, "trl", tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ('"weight": 1.0', '"weight": 1e400'),
        ('"p_chosen": 1.0', '"p_chosen": NaN'),
    ],
)
def test_a_number_that_is_none_is_named_with_its_line(changed: str, reason: str, run: Run, tmp_path: Path) -> None:
    text = run.preferences.read_text()
    assert changed in text
    run.preferences.write_text(text.replace(changed, reason, 1))
    with pytest.raises(DataError, match=r"preferences.jsonl:1: (weight|p_chosen): .*finite number"):
        export_preferences(run.folder, "trl", tmp_path / "out.jsonl")


def test_rows_that_no_run_writes_are_named_with_their_line(run: Run, tmp_path: Path) -> None:
    """Each pair once from each source, and none whose sides are equal."""
    text = run.preferences.read_text()
    run.preferences.write_text(text + "\n" + text)
    with pytest.raises(DataError, match=rf"jsonl:{len(ROWS) + 2}: pair \S+ \(human\) is there twice; delete the row"):
        export_preferences(run.folder, "trl", tmp_path / "out.jsonl")
    write_jsonl(run.preferences, [ROWS[0], ROWS[1].model_copy(update={"rejected": ROWS[1].chosen})])
    with pytest.raises(DataError, match=r"jsonl:2: chosen and rejected are equal; delete the row"):
        read_preferences(run.preferences)
    both = [ROWS[0], ROWS[0].model_copy(update={"source": "ai"})]
    write_jsonl(run.preferences, both)
    assert read_preferences(run.preferences) == both
