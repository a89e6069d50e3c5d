"""Sequence classifiers of transformers: from outputs to a probability of each label, by the classifier's config."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.errors import ConfigError, ModelError, did_you_mean, one_line

MOST = 1_000_000
"""Tokenizers that know no limit say a much larger number."""
BATCH = 16
Question = tuple[str, str | None]
"""A text, and what comes before it where the classifier reads both."""
_ahead: dict[tuple[str, str | None, bool], dict[Question, Any]] = {}
"""Outputs by classifier and whether it reads the text alone; None where a text was not read."""


def check_config(name: str, revision: str | None, labels: Iterable[str]) -> bool:
    """ConfigError for a path that is no folder of a classifier, and for a classifier without these labels. False for a
    name on the hub that is not on this machine yet: it is read when it is loaded."""
    folder = Path(name).expanduser()
    if folder.exists():
        file = folder / "config.json"
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ConfigError(f"model folder {name!r} does not exist")
    else:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 (slow to import)

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except ValueError as error:
            raise ConfigError(f"{name}: neither a folder nor a name on the hub: {one_line(error)}") from None
        if not isinstance(cached, str):
            return False
        file = Path(cached)
    try:
        config = json.loads(file.read_bytes())
        named = config.get("id2label") or {i: f"LABEL_{i}" for i in range(config.get("num_labels") or 2)}
        known, heads = [*map(str, named.values())], config.get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name}: no model folder: {one_line(error)}") from None
    if heads and not any(str(head).endswith("ForSequenceClassification") for head in heads):
        raise ConfigError(f"{name}: is no sequence classifier but a {heads[0]}")
    _check_labels(name, labels, known)
    return True


def load(name: str, revision: str | None, labels: Iterable[str]) -> _Loaded:
    """Ready to be asked. ModelError for what cannot be loaded or is no classifier, ConfigError for other labels."""
    loaded = _load(name, revision)
    _check_labels(name, labels, loaded.labels)
    return loaded


def probabilities(
    name: str, revision: str | None, text: str, before: str | None, temperature: float, labels: Sequence[str]
) -> dict[str, float]:
    """By label: a probability, or the output itself where the config says `regression`. ValueError for a text that is
    too long; ModelError for a model that is no classifier or has not these labels."""
    from scipy.special import expit, softmax  # noqa: PLC0415 (slow to import)

    loaded = load(name, revision, labels)
    outputs = _ahead.get((name, revision, before is None), {}).get((text, before))
    outputs = _outputs(name, revision, text, before) if outputs is None else outputs
    kind = loaded.model.config.problem_type
    if kind != "regression":
        many = kind == "multi_label_classification" or len(loaded.labels) == 1
        outputs = expit(outputs / temperature) if many else softmax(outputs / temperature)
    return dict(zip(loaded.labels, outputs.tolist(), strict=True))


def read_ahead(name: str, revision: str | None, questions: Iterable[Question]) -> None:
    """Read many texts of one sort, those of like length together, for `probabilities` to find: up to twice as fast as
    one at a time, and equal to it within 1e-6. Where padding changes what the classifier says, nothing is read ahead.

    What was read before is forgotten: numbers hang on these questions alone, and a run that goes on has the same ones.
    """
    wanted = list(dict.fromkeys(questions))
    if not wanted or list(_ahead.get(key := (name, revision, wanted[0][1] is None), ())) == wanted:
        return
    loaded = _load(name, revision)
    _ahead[key] = found = dict.fromkeys(wanted)
    tokens = {one: loaded.tokens(*one) for one in wanted}
    order = sorted(wanted, key=lambda one: len(tokens[one]["input_ids"]))
    order = [one for one in order if len(tokens[one]["input_ids"]) <= loaded.longest]
    try:
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            outputs = loaded.outputs(loaded.tokenizer.pad([tokens[one] for one in part], return_tensors="pt"))
            alone = _outputs(name, revision, *part[0])  # the shortest: it has most padding
            if not (abs(outputs[0] - alone) <= 1e-5 * (1 + abs(alone))).all():
                return
            found |= dict(zip(part, outputs, strict=True))
    except Exception:  # it cannot pad, or one text is none for it: one at a time tells which
        return


@lru_cache(maxsize=20_000)
def _outputs(name: str, revision: str | None, text: str, before: str | None) -> Any:
    """The outputs for one text: asked once, whatever the temperature."""
    loaded = _load(name, revision)
    tokens = loaded.tokens(text, before)
    if (length := len(tokens["input_ids"])) > loaded.longest:
        raise ValueError(f"{length} tokens, more than the classifier's {loaded.longest}")
    return loaded.outputs(tokens.convert_to_tensors("pt", prepend_batch_axis=True))[0]


def _check_labels(name: str, labels: Iterable[str], known: Sequence[str]) -> None:
    for label in labels:
        if label not in known:
            raise ConfigError(f"{name}: has no label {label!r}{did_you_mean(label, known)}")
    if len(set(known)) < len(known):
        raise ConfigError(f"{name}: two of its labels have one name: {', '.join(known)}")


class _Loaded(NamedTuple):
    tokenizer: Any
    model: Any
    longest: int
    """Tokens that it reads."""
    labels: tuple[str, ...]

    def tokens(self, text: str, before: str | None) -> Any:
        return self.tokenizer(*(one.encode("utf-8", "replace").decode() for one in (before, text) if one is not None))

    def outputs(self, tokens: Any) -> Any:
        """A row per text."""
        import torch  # noqa: PLC0415 (slow to import)

        with torch.inference_mode():
            return self.model(**tokens).logits.double().numpy()


@cache
def _load(name: str, revision: str | None) -> _Loaded:
    """ModelError where it cannot be loaded whole: a head that the folder lacks would be made of chance."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415 (slow to import)
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model, how = AutoModelForSequenceClassification.from_pretrained(
            path, revision=revision, dtype="float32", output_loading_info=True
        )
    except Exception as error:
        raise ModelError(f"classifier {name!r} cannot be loaded: {one_line(error)}") from None
    if missing := sorted({*how["missing_keys"], *how["mismatched_keys"]}, key=str):
        raise ModelError(f"classifier {name!r} is no sequence classifier: it has no weights for {missing[0]}")
    positions = getattr(model.config, "max_position_embeddings", None) or MOST
    positions = MOST if positions < 0 else positions  # XLNet's way to say that there is no limit
    labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return _Loaded(tokenizer, model.eval(), min(positions, tokenizer.model_max_length), labels)
