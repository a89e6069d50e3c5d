"""The signal `model`: which output is which label, how outputs become probabilities, what is no classifier."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from rlaif.constitution import Constitution, lint
from rlaif.errors import ModelError
from rlaif.patterns import Undecided
from rlaif.records import Message
from rlaif.signals import classifier, measured, value
from rlaif.signals.kinds import Signal
from rlaif.testing import save_tiny, tiny_tokenizer

WHY = (
    Message(role="user", content="Who?"),
    Message(role="assistant", content="I."),
    Message(role="user", content="Why?"),
)
ORDERS = [["digits", "letters", "neither"], ["neither", "digits", "letters"], ["letters", "neither", "digits"]]
LOGITS = {"digits": 2.0, "letters": 0.5, "neither": -1.0}


def save(folder: Path, labels: list[str], **config: Any) -> str:
    """A classifier whose outputs for a text of digits are LOGITS of its labels, as near as training comes."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 262,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "num_labels": len(labels),
    }
    model = LlamaForSequenceClassification(LlamaConfig(**settings | config))
    tokens = tiny_tokenizer()(["1", "a"], return_tensors="pt")["input_ids"]
    wanted = torch.tensor([[LOGITS[label] for label in labels], [-LOGITS[label] for label in labels]])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(model(input_ids=tokens).logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def number(text: str, folder: str, labels: dict[str, float], **keys: Any) -> float:
    signal = TypeAdapter(Signal).validate_python({"kind": "model", "model": folder, "labels": labels, **keys})
    return value(signal, text, WHY)


@pytest.mark.parametrize("order", ORDERS)
def test_a_label_is_found_by_its_name_wherever_it_stands(order: list[str], tmp_path: Path) -> None:
    folder = save(tmp_path, order)
    total = sum(math.exp(logit) for logit in LOGITS.values())
    for label, logit in LOGITS.items():
        assert number("1", folder, {label: 1}) == pytest.approx(math.exp(logit) / total, abs=0.03)
    both = number("1", folder, {"digits": 1, "letters": -1})
    assert both == pytest.approx(number("1", folder, {"digits": 1}) - number("1", folder, {"letters": 1}))
    assert number("1", folder, {"digits": 1}) > number("a", folder, {"digits": 1}) + 0.5


def test_one_output_is_a_sigmoid_and_many_labels_are_one_each(tmp_path: Path) -> None:
    sure = 1 / (1 + math.exp(-2))
    assert number("1", save(tmp_path / "one", ["digits"]), {"digits": 1}) == pytest.approx(sure, abs=0.02)
    many = save(tmp_path / "many", ORDERS[1], problem_type="multi_label_classification")
    assert number("1", many, {"digits": 1}) == pytest.approx(sure, abs=0.02)
    assert number("1", many, dict.fromkeys(ORDERS[0], 1.0)) == pytest.approx(
        sum(1 / (1 + math.exp(-logit)) for logit in LOGITS.values()), abs=0.03
    )
    bare = save(tmp_path / "bare", ["digits"], problem_type="regression")
    assert number("1", bare, {"digits": 1}) == pytest.approx(2, abs=0.1)
    assert number("1", bare, {"digits": 0.5}) == pytest.approx(1, abs=0.1)


def test_two_outputs_are_shares_of_one_and_the_temperature_divides_them(tmp_path: Path) -> None:
    folder = save(tmp_path, ["letters", "digits"])
    assert number("1", folder, {"digits": 1}) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)
    assert number("1", folder, {"digits": 1}, temperature=3) == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.02)


def test_a_classifier_of_pairs_reads_the_prompts_last_turn_first(tmp_path: Path, monkeypatch: Any) -> None:
    folder = save(tmp_path, ["letters", "digits"])
    seen = []
    loaded = classifier._load(folder, None)

    def spy(*texts: str) -> Any:
        seen.append(texts)
        return loaded.tokenizer(*texts)

    monkeypatch.setattr(classifier, "_load", lambda name, revision: loaded._replace(tokenizer=spy))
    number("Because.", folder, {"digits": 1}, reads="prompt_and_response")
    number("Because.", folder, {"digits": 1})
    assert seen == [("Why?", "Because."), ("Because.",)]


def test_a_text_that_is_too_long_or_empty_has_no_number(tmp_path: Path) -> None:
    folder = save(tmp_path, ["letters", "digits"])
    with pytest.raises(Undecided, match=r"65 tokens, more than the classifier's 64"):
        number("1" * 65, folder, {"digits": 1})
    assert 0 < number("1" * 64, folder, {"digits": 1}) < 1
    with pytest.raises(Undecided, match="nothing to measure"):
        number(" ", folder, {"digits": 1})


def test_an_unknown_label_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, ["letters", "digits"])
    with pytest.raises(ValidationError, match=r"has no label 'digit'; did you mean 'digits'"):
        number("1", folder, {"digit": 1})
    with pytest.raises(ValidationError, match="no model folder"):
        number("1", str(tmp_path.parent), {"digits": 1})
    twice = save(tmp_path / "twice", ["digits", "digits"])
    with pytest.raises(ValidationError, match="two of its labels have one name"):
        number("1", twice, {"digits": 1})


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    """transformers would make its head of chance, and warn."""
    folder = save_tiny(tmp_path)
    with pytest.raises(ValidationError, match=r"is no sequence classifier but a LlamaForCausalLM"):
        number("1", folder, {"LABEL_0": 1})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no sequence classifier: it has no weights for score.weight"):
        number("1", folder, {"LABEL_0": 1})


TEXTS = ["1", "a1", "é" * 9, "😀", "12 ab " * 9, "1" * 64, "1" * 65, " ", *(f"{n} a" * (n % 19) for n in range(40))]


def heads(folder: Path) -> dict[str, tuple[str, bool]]:
    """Classifiers, and whether they say the same of padded texts."""
    small = {"vocab_size": 262, "num_labels": 3, "pad_token_id": 0}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    bert |= {"max_position_embeddings": 64, "initializer_range": 0.5} | small
    made = {
        "bert": (BertForSequenceClassification(BertConfig(**bert)), True),
        "last token": (LlamaForSequenceClassification(LlamaConfig(**bert)), True),
        "no padding": (LlamaForSequenceClassification(LlamaConfig(**bert | {"pad_token_id": None})), False),
        "other padding": (LlamaForSequenceClassification(LlamaConfig(**bert | {"pad_token_id": 7})), False),
        "padding is read": (
            XLNetForSequenceClassification(XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=16, **small)),
            False,
        ),
    }
    for name, (model, _) in made.items():
        model.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return {str(folder / name): together for name, (_, together) in made.items()}


def test_many_texts_read_together_have_the_numbers_of_one_at_a_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for folder, together in heads(tmp_path).items():
        for reads in ("response", "prompt_and_response"):
            keys = {"kind": "model", "model": folder, "labels": {"LABEL_1": 1, "LABEL_2": -0.5}, "reads": reads}
            signal = TypeAdapter(Signal).validate_python(keys)
            alone = [measured(signal, text, WHY) for text in TEXTS]
            assert len(set(alone)) > 30  # it tells them apart
            signal.read_ahead((text, WHY) for text in TEXTS)
            kept = classifier._ahead[folder, None, reads == "response"]
            assert sum(outputs is not None for outputs in kept.values()) == (
                sum(one is not None for one in dict(zip(TEXTS, alone, strict=True)).values()) if together else 0
            )
            for one, other in zip(alone, (measured(signal, text, WHY) for text in TEXTS), strict=True):
                assert (one is None) == (other is None)
                assert one is None or abs(one - other) < 1e-6  # type: ignore[operator]


def test_a_number_hangs_on_those_read_with_it_and_on_none_before(tmp_path: Path, monkeypatch: Any) -> None:
    """So a run that goes on after a kill has the numbers that it would have had."""
    folder = save(tmp_path, ["letters", "digits"])
    signal = TypeAdapter(Signal).validate_python({"kind": "model", "model": folder, "labels": {"digits": 1}})
    lots: list[int] = []
    outputs = classifier._Loaded.outputs
    monkeypatch.setattr(
        classifier._Loaded,
        "outputs",
        lambda self, tokens: (lots.append(len(tokens["input_ids"])), outputs(self, tokens))[1],
    )
    signal.read_ahead([("1", WHY), ("a", WHY), ("1", WHY), ("a1", WHY), ("", WHY)])
    assert max(lots) == 3  # each once
    assert [value(signal, text, WHY) > 0.5 for text in ("1", "a")] == [True, False] and len(lots) == 2
    signal.read_ahead([("1", WHY), ("a", WHY), ("a1", WHY)])
    assert len(lots) == 2  # as they were
    signal.read_ahead([("1", WHY)])
    ahead = classifier._ahead[folder, None, True]
    assert list(ahead) == [("1", None)] and len(lots) == 3 and value(signal, "1", WHY) > 0.5
    ahead["1", None] = ahead["1", None][::-1]
    assert value(signal, "1", WHY) < 0.5  # nobody else remembers it


def test_a_model_without_a_limit_of_its_own_reads_what_its_tokenizer_says(tmp_path: Path) -> None:
    folder = next(name for name in heads(tmp_path) if name.endswith("padding is read"))
    assert 0 < number("1" * 700, folder, {"LABEL_0": 1}) < 1


def test_a_name_on_the_hub_is_warned_of_where_it_is_not_here(tmp_path: Path, monkeypatch: Any) -> None:
    def constitution(model: str) -> Constitution:
        principle = {"id": "p", "classifier": {"kind": "model", "model": model, "labels": {"digits": 1}, "at_least": 0}}
        head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "T"}
        return Constitution.model_validate(head | {"principles": [principle]})

    said = [
        "p: no folder no/such, and no such model of the hub on this machine; a run asks the hub for it as it begins"
    ]
    assert lint(constitution("no/such")) == said
    assert lint(constitution(save(tmp_path, ["letters", "digits"]))) == []
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *name, **keys: str(tmp_path / "config.json"))
    assert lint(constitution("no/such")) == []
    (tmp_path / "config.json").write_text('{"id2label": {"0": "digit", "1": "x"}}')
    with pytest.raises(ValidationError, match="no label 'digits'; did you mean 'digit'"):
        constitution("no/such")
    with pytest.raises(ValidationError, match="not a name/such: neither a folder nor a name on the hub"):
        monkeypatch.undo()
        constitution("not a name/such")


def test_a_name_that_no_hub_gives_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"^classifier 'nobody/nothing' cannot be loaded: [^\n]+$"):
        number("1", "nobody/nothing", {"digits": 1})
    with pytest.raises(ValidationError, match="model folder 'nothing' does not exist"):
        number("1", "nothing", {"digits": 1})
