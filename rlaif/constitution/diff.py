"""What changed between two versions of a constitution, in words, and which version number that calls for.

The rule, by what became of the questions behind a label that the old version gave:

    major   one is not asked any more, or asked otherwise: a principle removed; its compare text, question, desired
            reply, contrast, check or veto changed; the preamble changed
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
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from rlaif.constitution.schema import Constitution, Contrast, Principle

Level = Literal["none", "patch", "minor", "major"]
LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
HEAD_LEVELS: dict[str, Level] = {"id": "major", "title": "patch", "preamble": "major", "examples": "patch"}
PRINCIPLE_LEVELS: dict[str, Level] = {
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
}
_IDENTITY = ("compare", "question", "desired", "contrast", "check")
"""What makes two principles the same under different ids."""
_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:[-+][0-9A-Za-z.+-]+)?")
_ALIKE = 0.5
"""From this share of common words on, marks inside one text read better than the two texts."""


class Change(NamedTuple):
    """One thing that changed. `before` and `after` hold the two texts where a text was reworded."""

    level: Level
    sentence: str
    principle: str | None = None
    """Its id in the new version, or in the old one where it was removed; None for the head of the file."""
    before: str | None = None
    after: str | None = None


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
    changes = [*_head(old, new), *_principles(old, new)]
    advice: Level = max((change.level for change in changes), key=LEVELS.index, default="none")
    sentence, follows = _version(old.version, new.version, advice)
    return Diff(tuple(changes), advice, sentence, follows)


def is_semver(version: str) -> bool:
    """Whether it is MAJOR.MINOR.PATCH, perhaps with a suffix (semver.org)."""
    return _SEMVER.fullmatch(version) is not None


# ------------------------------------------------------------------------------------------------- the head


def _head(old: Constitution, new: Constitution) -> Iterator[Change]:
    for field in Constitution.model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if before == after or field in {"version", "principles"}:
            continue
        if field == "id":
            yield Change(HEAD_LEVELS[field], f"id {before} -> {after}: this is another constitution")
        else:
            yield _text_change(None, field, before or None, after or None, HEAD_LEVELS.get(field, "minor"))


# --------------------------------------------------------------------------------------------- the principles


def _principles(old: Constitution, new: Constitution) -> Iterator[Change]:
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    gone = [principle for principle in old.principles if principle.id not in after]
    renamed = _renamed(gone, [principle for principle in new.principles if principle.id not in before])
    for name, principle in after.items():
        former = before.get(renamed.get(name, name))
        if former is None:
            yield Change("minor", f"principle {name} added: {_gist(principle)}", name)
            continue
        if former.id != name:
            yield Change("minor", f"principle {former.id} renamed to {name}: it says the same", name)
        yield from _principle(former, principle)
    for name, principle in before.items():
        if name not in after and name not in renamed.values():
            yield Change("major", f"principle {name} removed: labels no longer reward it ({_gist(principle)})", name)
    kept = [renamed.get(name, name) for name in after]
    if [name for name in before if name in kept] != [name for name in kept if name in before]:
        yield Change("none", "the principles stand in another order, which changes no label")


def _renamed(gone: list[Principle], come: list[Principle]) -> dict[str, str]:
    """The new id of each principle that came, to the old id of one that went and said the same."""
    found: dict[str, str] = {}
    for principle in come:
        for former in gone:
            same = all(getattr(former, field) == getattr(principle, field) for field in _IDENTITY)
            if same and former.id not in found.values():
                found[principle.id] = former.id
                break
    return found


def _gist(principle: Principle) -> str:
    shown = [principle.compare] if principle.compare else []
    shown += [_both(principle.contrast)] if principle.contrast and not principle.compare else []
    return "; ".join(shown + ([f"check {_check(principle.check)}"] if principle.check else []))


def _principle(old: Principle, new: Principle) -> Iterator[Change]:
    for field in Principle.model_fields:
        before, after = getattr(old, field), getattr(new, field)
        if field == "id" or before == after:
            continue
        level = PRINCIPLE_LEVELS.get(field, "minor")
        if field == "tags" and set(before) == set(after):
            continue
        if field == "contrast":
            yield from _contrasts(new.id, before, after)
        elif field in _SENTENCES:
            yield Change(level, f"{new.id}: {_SENTENCES[field](before, after)}", new.id)
        elif field == "desired":
            if old.question and new.question:  # otherwise it came, or went, with its question
                yield Change(level, f'{new.id}: desired reply flipped from "{before}" to "{after}"', new.id)
        else:
            # A text by which nothing was asked takes nothing away: the modes that ask by it gain a principle.
            gained = before is None and (field == "question" or (field == "compare" and old.check is None))
            yield _text_change(new.id, field, before, after, "minor" if gained else level)


def _contrasts(name: str, before: Contrast | None, after: Contrast | None) -> Iterator[Change]:
    """By side, since one side reworded leaves the other as it was. A first contrast is as a first question."""
    if before and after:
        for side, was, now in (("for", before.for_, after.for_), ("against", before.against, after.against)):
            if was != now:
                yield _text_change(name, f"contrast.{side}", was, now, PRINCIPLE_LEVELS["contrast"])
    elif after:
        yield Change("minor", f"{name}: contrast added: {_both(after)}", name)
    elif before:
        yield Change(PRINCIPLE_LEVELS["contrast"], f"{name}: contrast removed: {_both(before)}", name)


def _both(contrast: Contrast) -> str:
    return f'"{contrast.for_}" against ' + (f'"{contrast.against}"' if contrast.against else "the model as it is")


def _weight(before: float, after: float) -> str:
    return f"weight {before:g} -> {after:g} (counts {'more' if after > before else 'less'})"


def _priority(before: int, after: int) -> str:
    return f"priority {before} -> {after} (decided {'later' if after > before else 'earlier'} in lexicographic order)"


def _veto(before: bool, after: bool) -> str:
    return "veto given: where it speaks, nothing else counts" if after else "veto taken away: it is weighed like others"


def _tags(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    scope = f"prompts tagged {' or '.join(after)}" if after else "all prompts"
    return f"tags {', '.join(before) or 'none'} -> {', '.join(after) or 'none'} (now applies to {scope})"


def _checks(before: BaseModel | None, after: BaseModel | None) -> str:
    if before is None or after is None:
        return f"check {_check(after)} added" if before is None else f"check {_check(before)} removed"
    if type(before) is not type(after):
        return f"check {_check(before)} -> {_check(after)}"
    was, now = before.model_dump(), after.model_dump()
    moved = ", ".join(f"{key} {was[key]} -> {now[key]}" for key in was if was[key] != now[key])
    return f"check {was['kind']}: {moved}"


_SENTENCES: dict[str, Any] = {
    "weight": _weight,
    "priority": _priority,
    "veto": _veto,
    "tags": _tags,
    "check": _checks,
}


def _check(check: BaseModel | None) -> str:
    values = check.model_dump() if check else {}
    return f"{values.pop('kind')}({', '.join(f'{key}={value}' for key, value in values.items())})"


# -------------------------------------------------------------------------------------------------- the texts


def _text_change(principle: str | None, field: str, before: Any, after: Any, level: Level) -> Change:
    where = f"{principle}: " if principle else ""
    if isinstance(before, tuple) or isinstance(after, tuple):
        return Change(level, f"{where}{field}: {_items(before or (), after or ())}", principle)
    if not before or not after:
        what = f"{field} added: {after}" if after else f"{field} removed: {before}"
        return Change(level, where + what, principle, before, after)
    if before.split() == after.split():
        return Change("patch", f"{where}{field}: only spaces or line breaks changed", principle, before, after)
    return Change(level, f"{where}{field} reworded: {word_diff(before, after)}", principle, before, after)


def _items(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    come, gone = sum(item not in before for item in after), sum(item not in after for item in before)
    return f"{come} added, {gone} removed" if come or gone else "in another order"


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


# ------------------------------------------------------------------------------------------------ the version


def _version(old: str, new: str, advice: Level) -> tuple[str, bool]:
    """What the version numbers say against what the changes call for, and whether they follow it."""
    for version in (old, new):
        if not is_semver(version):
            return f"version {version!r} is not MAJOR.MINOR.PATCH, so it cannot follow the changes ({advice})", False
    was, now = _numbers(old), _numbers(new)
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


def _numbers(version: str) -> tuple[int, int, int]:
    match = _SEMVER.fullmatch(version)
    assert match is not None
    return int(match[1]), int(match[2]), int(match[3])


def _due(was: tuple[int, int, int], advice: Level) -> tuple[int, int, int]:
    major, minor, patch = was
    if advice == "major" and major > 0:
        return major + 1, 0, 0
    if advice in {"major", "minor"}:
        return major, minor + 1, 0
    return (major, minor, patch + 1) if advice == "patch" else was
