"""Preferences as rows of trainers, each in the form that the trainer reads at its defaults. A pure function per target.

Read in TRL 1.16.0, OpenRLHF 0.11.2, LLaMA-Factory 0.9.5, verl 0.9.1, NeMo-RL 7ea279a and axolotl 0.19.0; what each of
them does with a row is said where a row would surprise. `p_chosen` stands beside the rows where the trainer leaves
other columns alone. Next: `export.py`, their table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError, DataError
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json, write_json
from rlaif.records import Messages, Preference, alternating, derive_seed, plain

FROM = {"user": "human", "assistant": "gpt", "system": "system"}
SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def trl_row(row: Preference) -> dict[str, Any]:
    """TRL's conversational preference with an explicit prompt; what DPO wants."""
    sides = {"prompt": plain(row.prompt), "chosen": plain(row.chosen), "rejected": plain(row.rejected)}
    return sides | {"p_chosen": row.p_chosen}


def trl_implicit_row(row: Preference) -> dict[str, Any]:
    """TRL's conversational preference with the prompt inside both sides; what RewardTrainer wants."""
    return _whole(row) | {"p_chosen": row.p_chosen}


def openrlhf_chat_row(row: Preference) -> dict[str, Any]:
    """The prompt inside both sides, since OpenRLHF reads none beside them (`prompt_key` is None); its `train_dpo` takes
    it out of `chosen` again. `margin` is 2 p - 1, from 0 (a tie) to 1 (sure)."""
    return _whole(row) | {"margin": 2 * row.p_chosen - 1}


def openrlhf_row(row: Preference) -> dict[str, Any]:
    """As `openrlhf_chat_row`, as Human/Assistant transcripts: what OpenRLHF reads at its defaults, without
    `--data.apply_chat_template`."""
    sides = {"chosen": transcript(row.prompt + row.chosen), "rejected": transcript(row.prompt + row.rejected)}
    return sides | {"margin": 2 * row.p_chosen - 1}


def _whole(row: Preference) -> dict[str, Any]:
    return {"chosen": plain(row.prompt + row.chosen), "rejected": plain(row.prompt + row.rejected)}


def llamafactory_row(row: Preference) -> dict[str, Any]:
    """ShareGPT's ranking: `chosen` and `rejected` are one message each; turns must alternate, or the row is lost."""
    system, turns = split_system(row.prompt)
    conversations = [{"from": FROM[turn.role], "value": turn.content} for turn in alternating(turns)]
    chosen, rejected = ({"from": "gpt", "value": one[-1].content} for one in (row.chosen, row.rejected))
    sides = {"conversations": conversations, "chosen": chosen, "rejected": rejected}
    return sides | {"system": system, "p_chosen": row.p_chosen}


def write_dataset_info(out: Path, file: Path) -> None:
    """The file's entry where LLaMA-Factory looks it up; other entries stay. ConfigError where that is no such file."""
    try:
        entries = read_json(file, OBJECT) if file.exists() else {}
    except DataError as error:
        raise ConfigError(f"{error}; the entry of {out.name} belongs there") from None
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    entry = {"file_name": out.name, "ranking": True, "formatting": "sharegpt", "columns": columns}
    write_json(file, entries | {out.stem: entry})


def verl_row(row: Preference) -> dict[str, Any]:
    """A prompt for verl, with all that its reward managers index; the chosen response is the ground truth. Of the row
    they pass `extra_info` on, so the prompt is there too."""
    extra = {
        "prompt": plain(row.prompt),
        "chosen": row.chosen[-1].content,
        "rejected": row.rejected[-1].content,
        "p_chosen": row.p_chosen,
    }
    return {
        "data_source": "rlaif",
        "prompt": plain(row.prompt),
        "ability": "alignment",
        "reward_model": {"style": "model", "ground_truth": row.chosen[-1].content},
        "extra_info": {"index": derive_seed(row.pair_id) % 2**31, "split": row.split, **extra},
    }


def nemo_rl_row(row: Preference) -> dict[str, Any]:
    """NeMo-RL's PreferenceDataset, which adds `task_name` itself and fails on a file that has it."""
    completions = [{"rank": rank, "completion": plain(side)} for rank, side in enumerate((row.chosen, row.rejected))]
    return {"context": plain(row.prompt), "completions": completions}


def nemo_rl_binary_row(row: Preference) -> dict[str, Any]:
    """NeMo-RL's BinaryPreferenceDataset, whose prompt may be messages and whose responses are texts."""
    sides = {"chosen": row.chosen[-1].content, "rejected": row.rejected[-1].content}
    return {"prompt": plain(row.prompt), **sides, "p_chosen": row.p_chosen}


def axolotl_row(row: Preference) -> dict[str, Any]:
    """axolotl's `bradley_terry.chat_template`: one user's turn, which must be a text, and a system turn, which must be
    there. Earlier turns are a transcript inside it."""
    system, turns = split_system(row.prompt)
    sides = {"chosen": row.chosen[-1].content, "rejected": row.rejected[-1].content}
    return {"system": system, "input": one_text(turns).lstrip(), **sides, "p_chosen": row.p_chosen}


def split_system(prompt: Messages) -> tuple[str, Messages]:
    """The system turn's text, or an empty one, and the turns after it."""
    return (prompt[0].content, prompt[1:]) if prompt[0].role == "system" else ("", prompt)


def one_text(turns: Messages) -> str:
    """A prompt as one text: what its only turn says, or a transcript."""
    return turns[0].content if len(turns) == 1 else transcript(turns)


def transcript(messages: Messages) -> str:
    """As HH-RLHF writes a conversation; a system turn stands before it as it is."""
    return "".join(
        f"\n\n{SPEAKERS[turn.role]}: {turn.content}" if turn.role in SPEAKERS else turn.content for turn in messages
    )
