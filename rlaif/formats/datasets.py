"""Published data sets of preferences, told by their columns: a table of what each is called, and of the form it is.

One more is a line of `DATASETS`. Where a row is no plain comparison a function makes rows of a form out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

from pydantic import field_validator

from rlaif.config.sources import DataSource
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.columns import Columns
from rlaif.formats.comparisons import Comparisons
from rlaif.formats.format import Format
from rlaif.formats.label_studio import LabelStudio
from rlaif.formats.rankings import Rankings
from rlaif.formats.ratings import ANNOTATOR, Ratings
from rlaif.formats.rows import SourceRow, Unusable, read_rows
from rlaif.formats.sheet import Sheet

Made = Iterator[dict[str, Any]]
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
"""What stands between the turns of a prompt in HelpSteer 1 and 2."""
REDDIT = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
ARTICLE = "Article:\n{article}\n\nTL;DR:"
"""What summarizers were asked, as the comparisons' authors wrote it (arXiv 2009.01325)."""


class Known(NamedTuple):
    """One data set."""

    keys: set[str]
    """That tell it."""
    form: Format
    """Of its rows."""
    made: Callable[[dict[str, Any]], Made] | None = None
    """Rows of the form out of a row of the data set."""


def _turns(row: dict[str, Any]) -> Made:
    """HelpSteer 1 and 2 write a prompt of several turns as one text."""
    text = row["prompt"]
    first, *others = TURN.split(text) if isinstance(text, str) else [text]
    if others:
        roles = ("user", *map(str.lower, others[::2]))
        row = row | {"prompt": [{"role": r, "content": c} for r, c in zip(roles, (first, *others[1::2]), strict=True)]}
    yield row


def _nectar(row: dict[str, Any]) -> Made:
    """Seven answers with the ranks that GPT-4 gave them."""
    yield _ranked(row["prompt"], _objects(row["answers"], "answers"), "answer") | {"annotator": ANNOTATOR}


def _tree(row: dict[str, Any]) -> Made:
    """Every place of an Open Assistant tree at which people ranked several answers: the conversation up to there."""
    todo: list[tuple[list[dict[str, Any]], Any]] = [([], row["prompt"])]
    while todo:
        before, node = todo.pop()
        (node,) = _objects([node], "prompt")
        replies = [one for one in _objects(node.get("replies") or [], "replies") if not one.get("deleted")]
        role = "assistant" if node.get("role") == "assistant" else "user"
        talk = [*before, {"role": role, "content": node.get("text")}]
        todo += [(talk, reply) for reply in reversed(replies)]
        ranked = [one for one in replies if one.get("role") == "assistant" and one.get("rank") is not None]
        if role == "user" and len(ranked) > 1:
            yield _ranked(talk, ranked, "text")


def _ranked(prompt: Any, answers: Sequence[Mapping[str, Any]], text: str) -> dict[str, Any]:
    """A ranking. Some ranks may be missing, as those of answers that were deleted: the others' order counts."""
    ranks = [answer.get("rank") for answer in answers]
    if not all(_is_rank(rank) for rank in ranks):
        raise Unusable("a rank is no whole number from 0 or 1 on", str(ranks))
    order = sorted({rank for rank in ranks if rank is not None})
    places = [order.index(rank) for rank in ranks if rank is not None]
    return {"prompt": prompt, "responses": [answer.get(text) for answer in answers], "ranks": places}


def _is_rank(rank: Any) -> bool:
    return type(rank) in (int, float) and rank >= 0 and float(rank).is_integer()


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unusable(f"{key} is no list of objects", str(value))
    return value


def _arena(row: dict[str, Any]) -> Made:
    """Two conversations, of which MT-bench's judges looked at the first `turn` turns."""
    most = row.get("turn")
    for key in ("conversation_a", "conversation_b"):
        if isinstance(most, int) and isinstance(row[key], list):
            answers = [i for i, one in enumerate(row[key]) if isinstance(one, dict) and one.get("role") == "assistant"]
            row = row | {key: row[key][: answers[most - 1] + 1] if 0 < most <= len(answers) else row[key]}
    judge = row.get("judge")
    yield row | {"judge": " ".join(map(str, judge)) if isinstance(judge, list) else judge}


def _arena_55k(row: dict[str, Any]) -> Made:
    """All turns of the user, of one model and of the other, each a JSON list in a text."""
    asked, *both = (_list(row[key], key) for key in ("prompt", "response_a", "response_b"))
    talks = {}
    for key, said in zip(("conversation_a", "conversation_b"), both, strict=True):
        if len(said) != len(asked):
            raise Unusable("prompts and responses are not equally many", f"{len(asked)} and {len(said)}")
        roles = [("user", one) for one in asked], [("assistant", one) for one in said]
        talks[key] = [{"role": r, "content": c} for r, c in chain.from_iterable(zip(*roles, strict=True))]
    yield {key: value for key, value in row.items() if key not in ("prompt", "response_a", "response_b")} | talks


def _list(value: Any, key: str) -> list[Any]:
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.lstrip().startswith("[") else value
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Unusable(f"{key} is no text: half of a surrogate pair", repr(error.object[error.start])) from None
        except (ValueError, RecursionError):
            found = value
        value = found if isinstance(found, list) else [value]
    if not isinstance(value, list):
        raise Unusable(f"{key} is no list of texts", str(value))
    return value


def _alpaca_eval(row: dict[str, Any]) -> Made:
    """Old files say 0 for a tie, and have an `input`; people's files number their annotators."""
    more = row.get("input")
    asked = f"{row['instruction']}\n{more}" if isinstance(more, str) and more.strip() else row["instruction"]
    who = row.get("annotator") or row.get("annotator_index")
    tie = row["preference"] == 0 and not isinstance(row["preference"], bool)
    yield row | {"instruction": asked, "annotator": who, "preference": 1.5 if tie else row["preference"]}


def _summaries(row: dict[str, Any]) -> Made:
    """Two summaries of a post on Reddit or of an article."""
    (info,) = _objects([row["info"]], "info")
    if info.get("post"):
        prompt = REDDIT.format_map({key: info.get(key) or "" for key in ("subreddit", "title", "post")})
    elif info.get("article"):
        prompt = ARTICLE.format(article=info["article"])
    else:
        raise Unusable("neither post nor article is there")
    yield row | {"info": prompt}


def _label_studio(row: dict[str, Any]) -> Made:
    """Label Studio's JSON-MIN as its full JSON."""
    chosen = [one for value in row.values() if isinstance(value, list) for one in value if isinstance(one, dict)]
    result = [{"type": "pairwise", "value": one} for one in chosen if "selected" in one]
    answer = {"result": result, "completed_by": row.get("annotator"), "lead_time": row["lead_time"]}
    yield {"data": row, "annotations": [answer]}


def _completions(row: dict[str, Any]) -> Made:
    """NeMo-RL's pairs: the completion of the lower rank is the better one."""
    found = _objects(row["completions"], "completions")
    for one in found:
        for other in found:
            if one.get("rank", 0) < other.get("rank", 0):
                yield {"prompt": row["context"], "chosen": one.get("completion"), "rejected": other.get("completion")}


SIGNED, SIDES = (-3.0, 3.0), (0.0, 1.0)
WINNER: Mapping[str, Literal["a", "b", "tie"]] = {
    "model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie", "both_bad": "tie"
}  # fmt: skip


def _of(prompt: str | None, a: str, b: str, label: Any, **more: Any) -> Columns:
    return Columns(prompt=prompt, response_a=a, response_b=b, label=label, **more)


ARENA = ("conversation_a", "conversation_b")
WON = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
DATASETS: dict[str, Known] = {
    "helpsteer": Known(
        {"prompt", "response", "helpfulness", "correctness", "coherence"},
        Ratings(rating="helpfulness", scale=(0, 4)),
        _turns,
    ),
    "helpsteer2_preference": Known(
        {"response_1", "response_2", "preference_strength"},
        _of("prompt", "response_1", "response_2", "preference_strength", scale=SIGNED, whole=True),
        _turns,
    ),
    "helpsteer3": Known(
        {"context", "response1", "response2", "overall_preference"},
        _of("context", "response1", "response2", "overall_preference", scale=SIGNED, whole=True),
    ),
    "pku_saferlhf": Known(
        {"response_0", "response_1", "better_response_id"},
        _of("prompt", "response_0", "response_1", "better_response_id", scale=SIDES, whole=True),
    ),
    "nectar": Known({"prompt", "answers"}, Rankings(), _nectar),
    "arena": Known({*ARENA, "winner"}, _of(None, *ARENA, "winner", values=WINNER, annotator="judge"), _arena),
    "arena_55k": Known({"prompt", "response_a", "response_b", *WON}, _of(None, *ARENA, WON), _arena_55k),
    "alpaca_eval": Known(
        {"instruction", "output_1", "output_2", "preference"},
        _of("instruction", "output_1", "output_2", "preference", scale=(1, 2)),
        _alpaca_eval,
    ),
    "oasst": Known({"message_tree_id", "prompt"}, Rankings(), _tree),
    "webgpt": Known(
        {"question", "answer_0", "answer_1", "score_0", "score_1"},
        _of("question.full_text", "answer_0", "answer_1", "score_0", scale=(1, -1)),
    ),
    "summarize_from_feedback": Known(
        {"info", "summaries", "choice"},
        _of("info", "summaries.0.text", "summaries.1.text", "choice", scale=SIDES, whole=True, annotator="worker"),
        _summaries,
    ),
    "stack_exchange_paired": Known(
        {"question", "response_j", "response_k"}, _of("question", "response_j", "response_k", None)
    ),
    "label_studio_min": Known({"text1", "text2", "annotation_id", "lead_time"}, LabelStudio(), _label_studio),
    "nemo_rl": Known({"context", "completions"}, Comparisons(), _completions),
}


class Dataset(Format):
    """A published data set as it comes: HelpSteer, PKU-SafeRLHF, Nectar, Chatbot Arena, MT-bench and others."""

    kind: Literal["dataset"] = "dataset"
    KEYS = tuple(known.keys for known in DATASETS.values())
    name: str | None = None
    """Which (`helpsteer3`, ...); none: the columns tell."""

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in DATASETS:
            raise ValueError(f"no known data set{did_you_mean(name, DATASETS)}; known are {', '.join(DATASETS)}")
        return name

    def rows(self, source: DataSource) -> Iterator[SourceRow]:
        """Those of a file; where a cell of a CSV file is empty its value is missing, not its column."""
        return read_rows(source, keep=set().union(*self.KEYS))

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """As the data set's form reads them."""
        rows = iter(rows)
        for first in rows:
            name = self.name or dataset_of(first.value)
            if name is None:
                keys = ", ".join(sorted(first.value)) or "none"
                raise DataError(
                    f"{first.place}: no known data set has these columns ({keys}); known are {', '.join(DATASETS)}; "
                    "describe others by form: {kind: columns}"
                )
            known = DATASETS[name]
            known.form.read(_made(chain([first], rows), known, sheet), sheet)


def dataset_of(row: Mapping[str, Any]) -> str | None:
    """The name of the data set whose columns the row has."""
    return next((name for name, known in DATASETS.items() if known.keys <= row.keys()), None)


def _made(rows: Iterable[SourceRow], known: Known, sheet: Sheet) -> Iterator[SourceRow]:
    """Rows of the data set's form."""
    for row in rows:
        row.require(*sorted(known.keys))
        if known.made is None:
            yield row
            continue
        made: list[dict[str, Any]] = []
        with sheet.attempt(row.place):
            made += known.made(row.value)
            sheet.tally("unanswered", not made)
        kept = {key: row.value[key] for key in ("tags", "seconds", "reason") if key in row.value}
        yield from (SourceRow(row.place, kept | one) for one in made)
