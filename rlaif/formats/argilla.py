"""Records of Argilla 2. Every submitted answer is one person's.

Argilla's SDK drops the ranks that people gave on its page and lists the options in the question's own order (argilla
issue 5712, not mended in 2.8). Rankings with ranks, as the server has them, are read as they are; a file in which
many rankings are bare lists and all the same is refused. The SDK's nested records do not say either which answers were
discarded; its flattened ones and the server's do. Suggestions are labels of judges, read where somebody asks for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, Field, ValidationError

from rlaif.config.base import Positive, Section
from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.rankings import pair_ranked
from rlaif.formats.ratings import Rating, other_range, pair_rated
from rlaif.formats.rows import SourceRow, Unusable, tags_of
from rlaif.formats.sheet import Attribution, NumberScale, Sheet, as_number, name_of, response_text
from rlaif.jsonl import first_problem
from rlaif.records import Message, Prompt, Source

PEOPLE = str(uuid5(NAMESPACE_URL, "rlaif/human"))
"""The user of human labels in our own exports: preferences.jsonl does not say which person it was."""
AGENT, PEOPLE_AGENT = "rlaif", "rlaif: people"
"""The agents of the labels that `rlaif export` writes as suggestions: the judge's, and people's."""
SOMETHING = "judge"
"""The annotator of a suggestion or prediction that does not say whose it is."""
SUSPICIOUS = 10
"""So many bare lists in one order are no coincidence: 1 in 512 where two options were ranked blindly."""
UNSAID = {"discarded": "discarded", "draft": "not_submitted", "pending": "not_submitted"}
"""How answers that were not given are counted."""


class ArgillaRanking(Section):
    """A ranking question; `Settings.for_ranking` makes this one."""

    kind: Literal["ranking"] = "ranking"
    name: str = "ranking"
    """The question."""
    responses: tuple[str, ...] = Field(default=("response1", "response2"), min_length=2)
    """The fields of the responses, named as the question names its options."""


class ArgillaRating(Section):
    """A rating question about one response; `Settings.for_rating` makes this one."""

    kind: Literal["rating"] = "rating"
    name: str = "rating"
    """The question."""
    response: str = "response"
    """The field of the response."""
    scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and the highest rating; any other stops the run."""
    gap: Positive = 1.0
    """Ratings by one user at least this far apart are a preference."""


class Argilla(Format):
    """Records of Argilla 2: `to_json`, `to_list` (flattened or not), or the server's own with their ranks."""

    kind: Literal["argilla"] = "argilla"
    KEYS = ({"fields", "responses"}, {"ranking.responses"}, {"rating.responses"})
    prompt: str = "instruction"
    """The field of the prompt."""
    question: Annotated[ArgillaRanking | ArgillaRating, Field(discriminator="kind")] = ArgillaRanking()
    judges: bool = Field(default=False, exclude_if=lambda on: not on)  # else older runs would be out of date
    """Whether suggestions count, too, as labels of the judge that their agent names."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """A judgment per pair of ranked responses and user; or pairs of rated ones, past the gap, by user."""
        rated: list[Rating] = []
        orders: list[list[Any]] = []
        question = self.question
        scale = NumberScale(*(question.scale if isinstance(question, ArgillaRating) else (0, 0)))
        names = question.responses if isinstance(question, ArgillaRanking) else (question.response,)
        for row in rows:
            fields = _fields(row, self)
            fields.require(self.prompt, *names)
            given = list(_given(row, question.name, sheet, self.judges or sheet.judges))
            with sheet.attempt(row.place):
                prompt = _prompt(row, fields, self.prompt, sheet)
                texts = [response_text(fields, name) for name in names]
                for place, answer in given:
                    source: Source = "ai" if answer.suggested else "human"
                    said = Attribution(name_of(answer.user_id, place, "user_id"), source=source)
                    with sheet.attempt(place):
                        if isinstance(question, ArgillaRating):
                            rating = scale.read(answer.value, place, question.name)
                            rated.append(Rating(prompt, texts[0], rating, said))
                        else:
                            ranks = _ranks(answer.value, place, question)
                            pair_ranked(prompt, texts, ranks, said, sheet, _how_sure(row, answer))
                            orders.append(answer.value)
        _check_orders(orders)
        if isinstance(question, ArgillaRating):
            scale.check(other_range(scale))
            pair_rated(rated, question.gap, sheet)


class UserAnswer(BaseModel):
    """One user's answer to the question."""

    value: Any = None
    user_id: str | int | None = None
    status: str | None = None
    suggested: bool = False
    """Whether it is a judge's."""


def _fields(row: SourceRow, form: Argilla) -> SourceRow:
    """The record's fields; a flattened record has them beside everything else."""
    if "fields" not in row.value and any(key.endswith(".responses") for key in row.value):
        return row
    form.require(row, "fields", "responses")
    if not isinstance(row.value["fields"], dict):
        raise DataError(f"{row.place}: fields: must be an object (got {row.value['fields']!r})")
    return SourceRow(f"{row.place}: fields", row.value["fields"])


def _prompt(row: SourceRow, fields: SourceRow, key: str, sheet: Sheet) -> Prompt:
    """The prompt after the system turn that our own export keeps in the metadata, if there is one."""
    prompt = sheet.prompt(fields, key)
    metadata = row.value.get("metadata")
    system = metadata.get("system") if isinstance(metadata, dict) else None
    if isinstance(system, str):
        turns = (message for message in prompt.messages if message.role != "system")
        own = Prompt.of((Message(role="system", content=system), *turns))
        prompt = prompt.model_copy(update={"id": own.id, "messages": own.messages})
    return prompt.model_copy(update={"tags": tags_of(row, sheet.source)})


def _how_sure(row: SourceRow, answer: UserAnswer) -> float:
    """P of what is ranked higher: 1, or of labels that our own export wrote what that put beside them."""
    metadata = row.value.get("metadata")
    ours = answer.user_id == (AGENT if answer.suggested else PEOPLE)
    p = metadata.get("p_chosen") if isinstance(metadata, dict) and ours else None
    if p is None and ours:
        p = row.value.get("p_chosen")  # of a flattened record
    return 1.0 if p is None else as_number(p, row.place, "metadata.p_chosen", 0.5, 1)


def _given(row: SourceRow, question: str, sheet: Sheet, judges: bool) -> Iterator[tuple[str, UserAnswer]]:
    """The submitted answers to the question with their places; the others are counted, and a record without any. With
    `judges` also what was suggested."""
    found, suggested = list(_answers(row, question)), list(_suggested(row, question))
    found += [one for one in suggested if judges or not one["suggested"]]
    sheet.tally("unanswered", not found)
    sheet.tally("suggested", not found and len(suggested))
    for number, one in enumerate(found, start=1):
        place = f"{row.place} answer {number}"
        try:
            given = UserAnswer.model_validate(one)
        except ValidationError as error:
            raise DataError(f"{place}: {first_problem(error)}") from None
        if (status := _lower(given.status)) in UNSAID:
            sheet.tally(UNSAID[status])
        else:
            yield place, given


def _answers(row: SourceRow, question: str) -> Iterator[dict[str, Any]]:
    """Value, user and status of each answer in the SDK's flattened or nested records, or in the server's."""
    value = row.value
    if "fields" not in value:
        key = f"{question}.responses"
        columns = [_list(row, value.get(name)) for name in (key, f"{key}.users", f"{key}.status")]
        for answer, user, status in islice(zip_longest(*columns), len(columns[0])):
            yield {"value": answer, "user_id": user, "status": status}
    elif isinstance(value["responses"], dict):
        yield from _list(row, value["responses"].get(question), dict)
    else:
        for one in _list(row, value["responses"], dict):
            values = one.get("values")
            answer = values.get(question) if isinstance(values, dict) else None
            if answer is not None or _lower(one.get("status")) == "discarded":
                yield one | {"value": answer.get("value") if isinstance(answer, dict) else answer}


def _suggested(row: SourceRow, question: str) -> Iterator[dict[str, Any]]:
    """What our export wrote, and other programs, in the SDK's flattened or nested records: people's labels, which are
    suggestions there for want of a user, and judges'."""
    key, inside = f"{question}.suggestion", row.value.get("suggestions")
    one = inside.get(question) if isinstance(inside, dict) else None
    if not isinstance(one, dict):
        one = {"value": row.value.get(key), "agent": row.value.get(f"{key}.agent")}
    if (value := one.get("value")) is None:
        return
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = [{"value": name, "rank": rank} for rank, name in enumerate(value)]
    people = one.get("agent") == PEOPLE_AGENT
    yield {"value": value, "user_id": PEOPLE if people else one.get("agent") or SOMETHING, "suggested": not people}


def _lower(status: Any) -> str:
    return str(status).strip().lower()


def _list(row: SourceRow, value: Any, kind: type = object) -> list[Any]:
    """A list of such values; nothing is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise DataError(f"{row.place}: these are no answers of Argilla: {str(value)[:80]}")
    return value


def _check_orders(orders: Sequence[list[Any]]) -> None:
    """DataError where many rankings are bare lists and all the same."""
    if len(orders) >= SUSPICIOUS and isinstance(orders[0][0], str) and all(order == orders[0] for order in orders):
        raise DataError(
            f"all {len(orders)} rankings are {', '.join(orders[0])}: Argilla's SDK drops the ranks that people gave on "
            "its page; export the records with their ranks, from the server's datasets/ID/records?include=responses"
        )


def _ranks(value: Any, place: str, question: ArgillaRanking) -> list[float]:
    """The rank of each response, in the recipe's order; the smallest is the best, ties are allowed."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {question.name}: must be a ranking (got {str(value)[:80]})")
    ranks: dict[str, float] = {}
    for position, item in enumerate(value):
        name = item.get("value") if isinstance(item, dict) else item
        if name not in question.responses:
            raise DataError(
                f"{place}: {question.name}: {name!r} is none of the responses {', '.join(question.responses)}"
            )
        if name in ranks:
            raise Unusable("the ranking names a response twice", str(name))
        ranks[name] = as_number(item.get("rank"), place, "rank") if isinstance(item, dict) else position
    left_out = [name for name in question.responses if name not in ranks]
    if left_out:
        raise Unusable("the ranking leaves out a response", ", ".join(left_out))
    return [ranks[name] for name in question.responses]
