"""What is asked (which pairs, with which principles), who is given which pair, and how far everybody has come. Where
answers lie is `store.py`'s, who may ask `guard.py`'s.

Pairs go out in their order, a few at a time. What an annotator holds nobody else is given, as long as they are heard
of now and then; they get it again after a reload or a restart. An answer that comes too late is kept all the same.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rlaif.annotate.store import AnswerStore, Hold, PageAnswer
from rlaif.config import Recipe, load_recipe
from rlaif.constitution import Principle, load_constitution
from rlaif.constitution.persona import Unfilled, filled
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.human import read_human, source_of
from rlaif.feedback.pairs import make_pairs
from rlaif.formats import Annotations, AnyForm, LabelSource, human_rows, kind_of
from rlaif.jsonl import first_problem, read_jsonl, read_objects
from rlaif.records import Judgment, Message, Pair, Record, Response, Side, derive_seed, oriented, prompt_of
from rlaif.run_folder import Run

AHEAD = 2
"""Pairs that an annotator holds: the one on the screen and the next, so that it is there at once."""
HOLD_S = 300.0
"""How long a pair waits for an annotator who was not heard of; the page asks every minute while it can be seen."""
GOLD_EVERY = 8
"""Of so many questions one is gold, at a place that nobody can guess, as long as there are gold ones left."""


# ------------------------------------------------------------------------------------------- what is asked


class Questions(NamedTuple):
    """What the page asks. Every pair once, a and b by hash, wherever it came from."""

    pairs: tuple[Pair, ...]
    gold: tuple[Pair, ...]
    """Pairs whose right answer is known: every annotator gets them, and nothing on the page tells them apart."""
    principles: tuple[Principle, ...]

    def principles_for(self, pair: Pair) -> dict[str, str]:
        """The principles that apply to the pair's prompt, id and words, filled from its profile. Without those that its
        profile lacks a name for: nobody can be asked about them."""
        profile, found = pair.given.profile if pair.given else {}, dict[str, str]()
        for principle in self.principles:
            if principle.applies_to(pair.tags):
                with suppress(Unfilled):
                    found[principle.id] = wording(filled(principle, profile))
        return found


def read_questions(run: Run, pairs: Path | None, gold: Path | None, principles: bool) -> Questions:
    """What there is to ask in this run; `pairs` and `gold` name files to take instead of the run's own.

    Pairs come from route.jsonl, else from judgments.jsonl, else all are made of responses.jsonl. Gold questions come
    from the recipe's `preferences.annotators.gold` unless a file is given; one that is also a pair is only gold.
    ConfigError where nothing is found, DataError with its place for a row that is no pair.
    """
    recipe = load_recipe(str(run.recipe)) if run.recipe.exists() else None
    known = _once(_gold(run, recipe, gold))
    asked = _once(read_pairs(pairs) if pairs else _pairs_of(run, recipe))
    asked = {key: pair for key, pair in asked.items() if key not in known}
    if not asked:
        raise ConfigError(f"{pairs or run.folder}: no pairs to ask about")
    shown = load_constitution(recipe.constitution).principles if recipe and principles else ()
    # What only code decides has no words to put to a person, who would not decide it better either; two instructions
    # to whoever answers are no question.
    return Questions(tuple(asked.values()), tuple(known.values()), tuple(p for p in shown if wording(p)))


def wording(principle: Principle) -> str:
    """The principle as a question; empty for one that only code or its contrast decides."""
    return principle.compare or principle.question or ""


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file whose rows are pairs or judgments. DataError, with file and line, for any other row."""
    pairs = []
    for number, value in read_objects(path):
        text = json.dumps(value)
        try:
            pair = Judgment.model_validate_json(text).pair if "pair" in value else Pair.model_validate_json(text)
            prompt_of(pair)
        except ValidationError as error:
            raise DataError(f"{path}:{number}: neither a pair nor a judgment: {first_problem(error)}") from None
        if pair.a == pair.b:
            raise DataError(f"{path}:{number}: a and b are the same text, so there is nothing to compare")
        pairs.append(pair)
    return pairs


def _pairs_of(run: Run, recipe: Recipe | None) -> list[Pair]:
    for path in (run.route, run.judgments):
        if path.exists():
            return read_pairs(path)
    if not run.responses.exists():
        raise ConfigError(
            f"{run.folder}: nothing to compare: no {run.route.name}, {run.judgments.name} or {run.responses.name}; "
            "make some with `rlaif sample`, or name a file with --pairs"
        )
    responses = read_jsonl(run.responses, Response)
    prompts = {response.prompt_id: prompt_of(response) for response in responses}
    return make_pairs(list(prompts.values()), responses, None, recipe.seed if recipe else 0)


def _gold(run: Run, recipe: Recipe | None, file: Path | None) -> list[Pair]:
    sources: Sequence[LabelSource] = recipe.preferences.annotators.gold if recipe else ()
    sources = tuple(source for source in sources if not isinstance(source, Annotations))  # these are answers already
    if file is not None:
        source = source_of(file)
        if isinstance(source, AnyForm) and {kind_of(row.value) for row in human_rows(source)} <= {None, "judgments"}:
            return read_pairs(file)
        sources = (source,)
    if not sources:
        return []
    data = read_human(sources, run, recipe.prompts.system if recipe else None)
    return [judgment.pair for judgment in data.judgments]


def _once(pairs: Iterable[Pair]) -> dict[str, Pair]:
    found: dict[str, Pair] = {}
    for pair in pairs:
        as_is = oriented(prompt_of(pair), pair.a, pair.b).a == pair.a
        found.setdefault(pair.id, pair if as_is else pair.swapped())
    return found


# ----------------------------------------------------------------------------------------- who is given it


class DeskItem(Record):
    """One pair as the page shows it."""

    pair_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    shown_first: Side
    principles: dict[str, str]
    """Id and words."""


class Assignment(Record):
    """What an annotator is to do next, and how far they and all have come."""

    annotator: str
    items: tuple[DeskItem, ...]
    """The first is to be shown now."""
    done: int
    """This annotator's answers, without what they skipped."""
    skipped: tuple[str, ...]
    """Ids of the answers that skipped a pair, latest first."""
    left: int
    """How many questions this annotator would still get if all others stopped now."""
    waiting: int
    """Pairs without enough answers that others are looking at."""
    all_done: int
    all_total: int
    last: str | None
    """The answer that `undo` would take back."""


def shown_first(pair: Pair, annotator: str) -> Side:
    """Which response stands first for this annotator: random over pairs and annotators, the same at every look."""
    return "a" if derive_seed("annotate", pair.id, annotator) % 2 else "b"


def gold_due(annotator: str, number: int) -> bool:
    """Whether the annotator's question of this number (from 0) is a gold one."""
    block, place = divmod(number, GOLD_EVERY)
    return derive_seed("annotate", "gold", annotator, block) % GOLD_EVERY == place


class Desk:
    """Gives out pairs and takes answers. `per_pair`: to how many annotators a pair is given at most."""

    def __init__(
        self, store: AnswerStore, questions: Questions, per_pair: int = 1, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._questions = questions
        self._by_id = {pair.id: pair for pair in (*questions.pairs, *questions.gold)}
        self._per_pair = per_pair
        self._clock = clock

    def work(self, annotator: str) -> Assignment:
        """What this annotator is to do now, held for them from here on."""
        given, now = self._store.standing(), self._clock()
        everything = self._store.held()
        others = [held for held in everything if held.annotator != annotator and held.until > now]
        mine = [held for held in everything if held.annotator == annotator]
        answered = {answer.pair_id: answer for answer in given if answer.annotator == annotator}
        open_pairs = self._open(given, others, set(answered))
        gold = self._gold_left(annotator, set(answered))
        may = {pair.id for pair in (*open_pairs, *gold)}
        items = [self._by_id[held.pair_id] for held in mine if held.pair_id in may]
        ids = {pair.id for pair in items}
        fresh = _mixed(
            annotator,
            len(answered) + len(items),
            [pair for pair in open_pairs if pair.id not in ids],
            [pair for pair in gold if pair.id not in ids],
        )
        coming = list(fresh)
        items += coming[: max(AHEAD - len(items), 0)]
        self._store.hold(annotator, items, now + HOLD_S)
        done, total = self._everybody(given)
        everyone = self._open(given, [], set(answered))
        return Assignment(
            annotator=annotator,
            items=tuple(self._item(pair, annotator) for pair in items),
            done=sum(answer.choice != "skip" for answer in answered.values()),
            skipped=tuple(answer.id for answer in reversed(answered.values()) if answer.choice == "skip"),
            left=len(ids) + len(coming),
            waiting=len(everyone) - len(open_pairs),
            all_done=done,
            all_total=total,
            last=next((answer.id for answer in reversed(given) if answer.annotator == annotator), None),
        )

    def answer(self, given: PageAnswer) -> Assignment:
        """Keep an answer, whoever was given the pair meanwhile, and hand out the next."""
        self._store.add(given, self._by_id.get(given.pair_id))
        return self.work(given.annotator)

    def undo(self, annotator: str, answer_id: str) -> Assignment:
        """Take back an answer of this annotator, whose pair is then shown to them again."""
        self._store.undo(annotator, answer_id)
        return self.work(annotator)

    def annotators(self) -> list[str]:
        """Everybody who has answered, in the order of their first answer."""
        return list(dict.fromkeys(answer.annotator for answer in self._store.standing()))

    def _open(self, given: list[PageAnswer], others: list[Hold], seen: set[str]) -> list[Pair]:
        """Pairs, in order, that want an answer, that others do not hold and that this annotator has not seen."""
        taken = Counter(answer.pair_id for answer in given if answer.choice != "skip")
        taken.update(held.pair_id for held in others)
        return [p for p in self._questions.pairs if taken[p.id] < self._per_pair and p.id not in seen]

    def _gold_left(self, annotator: str, seen: set[str]) -> list[Pair]:
        left = [pair for pair in self._questions.gold if pair.id not in seen]
        return sorted(left, key=lambda pair: derive_seed("annotate", "gold", annotator, pair.id))

    def _everybody(self, given: list[PageAnswer]) -> tuple[int, int]:
        """Answers given and wanted in all. Gold questions count as the others do, or the figure would tell them."""
        real = {pair.id for pair in self._questions.pairs}
        labelled = [answer.pair_id for answer in given if answer.choice != "skip"]
        count = Counter(pair_id for pair_id in labelled if pair_id in real)
        enough = sum(min(n, self._per_pair) for n in count.values())
        tested = sum(pair_id in self._by_id and pair_id not in real for pair_id in labelled)
        wanted = len(real) * self._per_pair
        if enough == wanted:
            return enough + tested, wanted + tested
        expected = wanted // (GOLD_EVERY - 1) if self._questions.gold else 0
        return enough + tested, max(wanted + expected, enough + tested + 1)

    def _item(self, pair: Pair, annotator: str) -> DeskItem:
        return DeskItem(
            pair_id=pair.id,
            prompt=pair.prompt,
            a=pair.a,
            b=pair.b,
            shown_first=shown_first(pair, annotator),
            principles=self._questions.principles_for(pair),
        )


def _mixed(annotator: str, number: int, pairs: list[Pair], gold: list[Pair]) -> Iterator[Pair]:
    """The pairs from the annotator's question of this number on, with gold ones among them, not after them."""
    tests = deque(gold)
    for pair in pairs:
        while tests and gold_due(annotator, number):
            yield tests.popleft()
            number += 1
        yield pair
        number += 1
