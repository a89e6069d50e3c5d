"""README.md of preferences as a data set: its columns and splits as the hub's viewer and `datasets` read them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rlaif.share.contents import Contents, split_file
from rlaif.share.facts import About
from rlaif.share.markdown import code, escaped, written
from rlaif.share.sections import FEEDBACK, data_section, judge_section, judged_by, maker, recipe_section, tags, title

SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
TURNS = {"list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]}
FEATURES: dict[str, Any] = {
    **dict.fromkeys(("prompt", "chosen", "rejected"), TURNS),
    "p_chosen": {"dtype": "float64"},
    "source": {"dtype": "string"},
    "weight": {"dtype": "float64"},
    **{key: {"dtype": "string"} for key in ("split", "prompt_id", "pair_id")},
    "tags": {"list": "string"},
}
"""The columns of preferences.jsonl, as a data set's card declares them."""


def dataset_card(about: About, contents: Contents, repo: str) -> str:
    """The card of preferences."""
    from huggingface_hub import DatasetCardData  # noqa: PLC0415 (slow)

    rows = {split: sum(n for (_, s), n in contents.rows.items() if s == split) for split in ("train", "heldout")}
    files = {split: split_file(Path(), split).name for split, count in rows.items() if count}
    bytes_of = {split: (contents.folder / name).stat().st_size for split, name in files.items()}
    told = [copy.deepcopy({"name": name} | kind) for name, kind in FEATURES.items()]  # YAML writes no aliases then
    splits = [{"name": split, "num_bytes": bytes_of[split], "num_examples": rows[split]} for split in files]
    total = sum(bytes_of.values())
    sources = {source for source, _ in contents.rows}
    data = DatasetCardData(
        license="unknown",
        pretty_name=" ".join((about.recipe.title or about.recipe.name).split()),
        size_categories=[next((name for name, most in SIZES if sum(rows.values()) < most), "n>10M")],
        annotations_creators=["machine-generated"] * ("ai" in sources) + ["other"] * ("human" in sources),
        tags=["rlaif", "preference", "reward-modeling", *tags(about)],
        configs=[{"config_name": "default", "data_files": [{"split": s, "path": name} for s, name in files.items()]}],
        dataset_info={"features": told, "splits": splits, "download_size": total, "dataset_size": total},
    )
    kind = FEEDBACK[about.recipe.preferences.labels.kind]
    split_by = ", and no prompt is in both" if contents.split_by_prompt else ""
    sections = {
        "": [
            f"Pairs of responses to one prompt, each with the one that {kind} prefers and how sure that is, made by "
            f"{maker(about)}{judged_by(about)}. A row is a conversational preference as TRL reads it.",
        ],
        "Columns": [
            "`prompt`, `chosen` and `rejected` are messages. `p_chosen` is the probability, from 0.5 (a tie) to 1, "
            "that chosen is the better; `weight` is what the row counts in training; `source` says who labelled it. "
            f"`heldout` measures a reward model and trains none{split_by if 'heldout' in files else ''}.",
        ],
        "How to load it": [code(f'from datasets import load_dataset\n\nrows = load_dataset("{repo}", split="train")')],
        "Where the rows come from": data_section(about, contents.rows),
        "The judge": judge_section(about),
        "The recipe": recipe_section(about),
        "Limits": _limits(about),
        "Licence": [" ".join(_licence(about))],
    }
    return written(data, title(about, "preferences"), sections)


def _limits(about: About) -> list[str]:
    said = ["Labels are opinions of who gave them, not facts; texts by a model may be wrong, and were not filtered."]
    if about.judge:
        said += ["`p_chosen` of an AI label is the judge's own, calibrated only where the recipe says so."]
    return ["\n".join(f"- {one}" for one in said)]


def _licence(about: About) -> list[str]:
    said = []
    if (about.run.folder / "responses.jsonl").exists():
        said += [
            f"The policy's responses were written by {escaped(about.parent.name)}. {escaped(about.parent.sentence)}"
        ]
    if labels := about.sources()["labels"]:
        said += [f"What people compared is from {escaped(labels)} and has the licence of that."]
    unknown = "rlaif does not know what all of these allow together, so the card says `unknown`: set it before you pass"
    return [*said, "The licence of the prompts is their sources'.", f"{unknown} this on."]
