"""Whether people of different kinds agree: among themselves, with the others, and with the judge.

The kind is a field of the rows of `human_data`: a country, an age, a native language. A judge that agrees with one
group more than with another has that group's taste.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlaif.errors import DataError
from rlaif.feedback.annotators.labels import alpha, means, table
from rlaif.feedback.pairs import choice
from rlaif.formats import Annotations, HumanSource, human_rows
from rlaif.pages import kit
from rlaif.records import Judgment, grouped
from rlaif.stats import Bootstrap, estimate_at, mean_of

UNKNOWN = "not said"


def groups_of(sources: Iterable[HumanSource], field: str) -> dict[str, str]:
    """By annotator: the value of the field. DataError for one who has two, and where no row has the field."""
    groups: dict[str, str] = {}
    for source in sources:
        column = getattr(getattr(source, "form", source), "annotator", "annotator")
        for row in () if isinstance(source, Annotations) else human_rows(source):
            name, value = row.value.get(column), row.value.get(field)
            if name is not None and value is not None and groups.setdefault(str(name), str(value)) != str(value):
                raise DataError(f"{row.place}: {field}: {name} is {value!r} here and {groups[str(name)]!r} before")
    if not groups:
        raise DataError(f"evaluate.slices.annotators: no row of human_data has a field {field!r} and an annotator")
    return groups


def subgroups(
    people: Sequence[Judgment], judge: Sequence[Judgment], groups: Mapping[str, str], few: int, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """For each group: alpha among its members (Krippendorff), and how often its majority prefers the response that the
    others' majority prefers, and that the judge prefers. Ties are left out; what rests on fewer than `few` pairs is
    None."""
    prompt_of = {judgment.pair.id: judgment.pair.prompt_id for judgment in people}
    told = {pair_id: choice(p) for pair_id, p in means(judge).items()}
    members = grouped(people, lambda judgment: groups.get(judgment.annotator, UNKNOWN))

    def agreement(own: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any] | None:
        pairs = [pair_id for pair_id in own if 0.5 not in (own[pair_id], theirs.get(pair_id, 0.5))]
        same = mean_of(((float(own[pair_id] == theirs[pair_id]), prompt_of[pair_id]) for pair_id in pairs), bootstrap)
        return same.model_dump() if same and same.n >= few else None

    found = []
    for name in sorted(members):
        own, others = members[name], [j for other, rows in members.items() if other != name for j in rows]
        within, majority = alpha(own, bootstrap.seed), _majority(own)
        found.append(
            {
                "name": name,
                "annotators": len({judgment.annotator for judgment in own}),
                "labels": len(own),
                "alpha": within.model_dump() if within and within.units >= few else None,
                "others": agreement(majority, _majority(others)),
                "judge": agreement(majority, told),
            }
        )
    return found


def _majority(judgments: Sequence[Judgment]) -> dict[str, float]:
    """By pair: which side most annotators are on, as `choice` says it of the first text."""
    return {
        pair_id: choice(sum(choice(p) for p in said.values()) / len(said)) for pair_id, said in table(judgments).items()
    }


def subgroups_part(evaluation: Mapping[str, Any]) -> list[kit.Part]:
    """The groups for a person."""
    rows = [
        (
            entry["name"],
            f"{entry['annotators']:,}",
            f"{entry['labels']:,}",
            kit.cell(estimate_at(entry, "alpha"), "number"),
            kit.cell(estimate_at(entry, "others")),
            kit.cell(estimate_at(entry, "judge")),
        )
        for entry in evaluation.get("annotator_groups", ())
    ]
    return kit.section(
        "Annotators, by group",
        "Agreement among a group's members (Krippendorff's alpha: 1 always, 0 as by chance), of its majority with the "
        "others' majority, and with the judge. A figure that would rest on few pairs is left out.",
        kit.table(("Group", "Annotators", "Labels", "Alpha", "With the others", "With the judge"), rows),
    )
