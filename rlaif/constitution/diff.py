"""What changed between two versions of a constitution, in words, and which version number that calls for.

The rule, by what became of the questions behind a label that the old version gave:

    major   one is not asked any more, or asked otherwise: a principle removed; its compare text, question, desired
            reply, contrast, check, classifier or veto changed; the preamble changed
    minor   all are asked as before, with others or counted otherwise, which may turn close labels: a principle added,
            renamed or given its first question or contrast; its weight, priority or tags changed
    patch   only titles, critique and revise texts, or examples: labels of given pairs stay as they are
    none    the same content; the order of principles and the layout of the file change nothing

Below 1.0.0 a major change raises the middle number, and a pre-release may change in any way until its release, as
semantic versioning has it (semver.org, items 4 and 9). Nothing is judged here; `rlaif constitution ablate` measures
what a principle does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from rlaif.constitution.schema import Constitution, Contrast, Principle

Level = Literal["none", "patch", "minor", "major"]
LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
FIELDS: dict[str, Level] = {
    "id": "major",
    "title": "patch",
    "preamble": "major",
    "examples": "patch",
    "compare": "major",
    "critique": "patch",
    "revise": "patch",
    "question": "major",
    "desired": "major",
    "contrast": "major",
    "weight": "minor",
    "priority": "minor",
    "veto": "major",
    "tags": "minor",
    "check": "major",
    "classifier": "major",
    "reference": "major",
    "profile": "minor",
}
"""The level of a change, by what changed: of the constitution, then of a principle."""
_IDENTITY = ("compare", "question", "desired", "contrast", "check", "classifier", "reference")
"""What makes two principles the same under different ids."""
_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:[-+][0-9A-Za-z.+-]+)?")
_ALIKE = 0.5
"""From this share of common words on, marks inside one text read better than the two texts."""


class Change(NamedTuple):
    """One thing that changed."""

    level: Level
    sentence: str


class Diff(NamedTuple):
    """All changes, the gravest level among them, and what that means for the version number."""

    changes: tuple[Change, ...]
    advice: Level
    sentence: str
    follows: bool
    """Whether the new version number is at least what the changes call for."""

    def text(self) -> str:
        """For a terminal: a line for each change, its level before it, then the sentence."""
        return "\n".join([*(f"{change.level:<5}  {change.sentence}" for change in self.changes), self.sentence])


def diff(old: Constitution, new: Constitution) -> Diff:
    """What changed from `old` to `new`, head first, then principle by principle in the new order."""
    changes = []
    if old.id != new.id:
        changes.append(Change(FIELDS["id"], f"id {old.id} -> {new.id}: this is another constitution"))
    for field in ("title", "preamble", "examples", "profile"):
        changes += _changed(field, getattr(old, field), getattr(new, field))
    changes += _principles(old.principles, new.principles)
    advice: Level = max((change.level for change in changes), key=LEVELS.index, default="none")
    return Diff(tuple(changes), advice, *_version(old.version, new.version, advice))


def is_semver(version: str) -> bool:
    """Whether it is MAJOR.MINOR.PATCH, perhaps with a suffix (semver.org)."""
    return _SEMVER.fullmatch(version) is not None


def _principles(old: tuple[Principle, ...], new: tuple[Principle, ...]) -> Iterator[Change]:
    known = {principle.id: principle for principle in old}
    gone = [principle for principle in old if principle.id not in {each.id for each in new}]
    kept = []
    for principle in new:
        renamed = (each for each in gone if all(getattr(each, f) == getattr(principle, f) for f in _IDENTITY))
        former = known.get(principle.id) or next(renamed, None)
        if former is None:
            yield Change("minor", f"principle {principle.id} added: {_gist(principle)}")
            continue
        if former.id != principle.id:
            gone.remove(former)
            yield Change("minor", f"principle {former.id} renamed to {principle.id}: it says the same")
        kept.append(former.id)
        for level, sentence in _principle(former, principle):
            yield Change(level, f"{principle.id}: {sentence}")
    for former in gone:
        yield Change("major", f"principle {former.id} removed: labels no longer reward it ({_gist(former)})")
    if kept != [principle.id for principle in old if principle.id in kept]:
        yield Change("none", "the principles stand in another order, which changes no label")


def _principle(old: Principle, new: Principle) -> Iterator[Change]:
    for field in Principle.model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if field == "id" or before == after or (field == "tags" and set(before) == set(after)):
            continue
        if field in _SENTENCES:
            yield Change(FIELDS[field], _SENTENCES[field](before, after))
        elif field == "desired":
            if old.question and new.question:  # otherwise it came, or went, with its question
                yield Change(FIELDS[field], f'desired reply flipped from "{before}" to "{after}"')
        elif field == "contrast" and before and after:  # one side reworded leaves the other as it was
            yield from _changed("contrast.for", before.for_, after.for_)
            yield from _changed("contrast.against", before.against, after.against)
        else:
            was, now = (_both(side) if isinstance(side, Contrast) else side for side in (before, after))
            # A text by which nothing was asked takes nothing away: the modes that ask by it gain a principle.
            asks = field in {"question", "contrast"} or (field == "compare" and not old.coded)
            yield from _changed(field, was, now, "minor" if before is None and asks else None)


def _changed(field: str, before: Any, after: Any, level: Level | None = None) -> Iterator[Change]:
    """What is said of a text or of the examples, if they differ."""
    level = level or FIELDS[field.partition(".")[0]]
    if before == after:
        return
    if isinstance(before, tuple):
        come, gone = sum(item not in before for item in after), sum(item not in after for item in before)
        items = f"{come} added, {gone} removed" if come or gone else "in another order"
        yield Change(level, f"{field}: {items}")
    elif not before or not after:
        yield Change(level, f"{field} added: {after}" if after else f"{field} removed: {before}")
    elif before.split() == after.split():
        yield Change("patch", f"{field}: only spaces or line breaks changed")
    else:
        yield Change(level, f"{field} reworded: {word_diff(before, after)}")


def _check(check: BaseModel) -> str:
    values = check.model_dump()
    return f"{values.pop('kind')}({', '.join(f'{key}={value}' for key, value in values.items())})"


def _checks(before: Any, after: Any, name: str = "check") -> str:
    if not before or not after:
        return f"{name} {_check(after or before)} {'added' if after else 'removed'}"
    if type(before) is not type(after):
        return f"{name} {_check(before)} -> {_check(after)}"
    was, now = before.model_dump(), after.model_dump()
    moved = ", ".join(f"{key} {was[key]} -> {now[key]}" for key in was if was[key] != now[key])
    return f"{name} {was['kind']}: {moved}"


def _tags(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    scope = f"prompts tagged {' or '.join(after)}" if after else "all prompts"
    return f"tags {', '.join(before) or 'none'} -> {', '.join(after) or 'none'} (now applies to {scope})"


_SENTENCES: dict[str, Callable[[Any, Any], str]] = {
    "weight": lambda was, now: f"weight {was:g} -> {now:g} (counts {'more' if now > was else 'less'})",
    "priority": lambda was, now: (
        f"priority {was} -> {now} (decided {'later' if now > was else 'earlier'} in lexicographic order)"
    ),
    "veto": lambda _, now: (
        "veto given: where it speaks, nothing else counts" if now else "veto taken away: it is weighed like others"
    ),
    "tags": _tags,
    "check": _checks,
    "classifier": partial(_checks, name="classifier"),
}


def _both(contrast: Contrast) -> str:
    return f'"{contrast.for_}" against ' + (f'"{contrast.against}"' if contrast.against else "the model as it is")


def _gist(principle: Principle) -> str:
    asked = principle.compare or (_both(principle.contrast) if principle.contrast else "")
    coded = [f"{name} {_check(one)}" for name in ("check", "classifier") if (one := getattr(principle, name))]
    return "; ".join(filter(None, [asked, *coded, principle.reference]))


def word_diff(before: str, after: str) -> str:
    """One text with [-words gone-] and {+words come+} marked, or both texts where they share too little."""
    was, now = before.split(), after.split()
    matcher = difflib.SequenceMatcher(None, was, now, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return f'"{before}" -> "{after}"'
    parts = []
    for kind, i, j, m, n in matcher.get_opcodes():
        if kind == "equal":
            parts.append(" ".join(was[i:j]))
            continue
        parts += [f"[-{' '.join(was[i:j])}-]"] if i < j else []
        parts += [f"{{+{' '.join(now[m:n])}+}}"] if m < n else []
    return " ".join(parts)


def _version(old: str, new: str, advice: Level) -> tuple[str, bool]:
    """What the version numbers say against what the changes call for, and whether they follow it."""
    for version in (old, new):
        if not is_semver(version):
            return f"version {version!r} is not MAJOR.MINOR.PATCH, so it cannot follow the changes ({advice})", False
    was, now = (tuple(map(int, re.findall(r"\d+", version)[:3])) for version in (old, new))
    draft = "-" in old.partition("+")[0]
    due = was if draft and old != new else _due(was, advice)
    withdrawn = now == was and not draft and "-" in new.partition("+")[0]
    went = f"version went {old} -> {new}" if old != new else f"version is still {new}"
    called = ".".join(map(str, due))
    if now < was or withdrawn:
        return f"{went}, which is backwards; these changes call for {called}", False
    if now < due:
        return f"{went}, but these changes call for {called} ({advice})", False
    if advice == "none":
        return (f"{went}, and nothing changed" if old == new else f"{went}, though nothing changed"), True
    if now > due:
        return f"{went}, more than these changes call for: {called} ({advice}) would do", True
    return f"{went}, as these changes call for ({advice})", True


def _due(was: tuple[int, ...], advice: Level) -> tuple[int, ...]:
    major, minor, patch = was
    if advice == "major" and major > 0:
        return major + 1, 0, 0
    if advice in {"major", "minor"}:
        return major, minor + 1, 0
    return (major, minor, patch + 1) if advice == "patch" else was
