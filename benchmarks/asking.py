"""Which way of asking makes the best judge of this model: compare, score, checklist, contrast, panels of them.

    python benchmarks/asking.py --people hh.jsonl.gz hhh.jsonl --limit 1000
    python benchmarks/asking.py --truths --prompts 60
    python benchmarks/asking.py --people hh.jsonl.gz --limit 986 --longest 224 --parts DIR   # for 03_study.yaml

`--people`: pairs that people labelled (any form that `rlaif audit --gold` reads). `--truths`: pairs whose better side
is known without anyone: of the policy's own samples by syllables and by a list of warm words, of its answers to this
and to another prompt, of sentences in two languages. Prompts are cut in halves by hash. On one half the best of each
kind may be chosen; the other half reports. Replies are kept in `--cache`, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlaif.audits.gold import read_gold
from rlaif.config.feedback import LabelSection, SampleSection
from rlaif.config.judging import ChecklistMode, CompareMode, ContrastMode, Mode, PanelMember, PanelMode, ScoreMode
from rlaif.config.models import LocalModel
from rlaif.constitution import Constitution, write_constitution
from rlaif.feedback.calibration import TEMPERATURES, Confidences, fit_temperature
from rlaif.feedback.judge import judge_by_mode
from rlaif.feedback.judge.contrast import TAU
from rlaif.feedback.pairs import choice
from rlaif.feedback.sample import Speakers, sample_responses
from rlaif.jsonl import read_objects, write_jsonl
from rlaif.models.cache import CachedModel
from rlaif.models.local.model import LocalChatModel
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Judgment, Message, Pair, Prompt, content_id, oriented
from rlaif.resources import resolve
from rlaif.stats import Estimate, clustered_mean

PART = 280
"""Pairs that a study trains on, and pairs held out of it."""


class Gold(NamedTuple):
    """Pairs of which it is known that a (1) or b (0) is better."""

    pairs: list[Pair]
    p_a: list[float]


class Asked(NamedTuple):
    """One way of asking, by which principle."""

    name: str
    principle: dict[str, Any]
    mode: Mode
    dear: bool = True
    """Asked on the first `--dear` pairs alone."""


# ---------------------------------------------------------------------------------------------------------- the ways

GOOD = {
    "id": "good",
    "compare": "Which response is more helpful, honest and harmless?",
    "question": "Is the response wise, ethical, peaceful and helpful?",
    "desired": "yes",
}
WORDINGS = {
    "persona": (
        "You are a wise, ethical and caring assistant. Your answers are helpful, honest and harmless.",
        "You are a foolish, unethical and careless assistant. Your answers are unhelpful, dishonest and harmful.",
    ),
    "order": (
        "Answer so that nobody is hurt, and help nobody to do harm.",
        "Answer so that somebody is hurt, and help everybody to do harm.",
    ),
}
CHEAP = ("persona", "none")
"""Asked on all pairs."""
PLAIN = {
    "id": "plain",
    "compare": "Which response is easier for a twelve-year-old to understand?",
    "question": "Would a twelve-year-old understand the response without help?",
    "desired": "yes",
}
PLAIN_WORDINGS = {
    "persona": (
        "You are a kind teacher. Use short, simple words that a small child understands.",
        "You are a stern professor. Use long, complicated words that only an expert understands.",
    ),
    "order": ("Use short, simple, everyday words.", "Use long, complicated, academic words."),
}
WARM = {
    "id": "warm",
    "compare": "Which response is warmer?",
    "question": "Is the response warm and friendly?",
    "desired": "yes",
}
WARM_WORDINGS = {
    "persona": (
        "You are a warm, friendly helper who is glad to be asked.",
        "You are a cold, distant clerk who is annoyed to be asked.",
    ),
}
APT = {
    "id": "apt",
    "compare": "Which response answers the question that was asked?",
    "question": "Does the response answer the question that was asked?",
    "desired": "yes",
}
APT_WORDINGS = {
    "order": (
        "Answer exactly the question that the user asks.",
        "Ignore the question that the user asks and talk about something else.",
    ),
}
ENGLISH = {
    "id": "english",
    "compare": "Which response is written in English?",
    "question": "Is the response written in English?",
    "desired": "yes",
}
ENGLISH_WORDINGS = {"order": ("Answer in English.", "Answer in German.")}


def ways(principle: dict[str, Any], wordings: dict[str, tuple[str, str]]) -> list[Asked]:
    """Every way to ask by one principle."""
    found = [
        Asked("compare", principle, CompareMode()),
        Asked("compare, brief", principle, CompareMode(template="compare-brief")),
        Asked("checklist", principle, ChecklistMode()),
        Asked("score", principle, ScoreMode()),
    ]
    for name, (told, opposite) in wordings.items():
        for side, against in (("none", ""), ("opposite", opposite)):
            worded = principle | {"contrast": {"for": told, "against": against}}
            cheap = (name, side) == CHEAP
            found += [
                Asked(f"contrast {name} against {side}, {length}", worded, ContrastMode(length=length), not cheap)
                for length in ("sum", "mean", "root")
            ]
    first = next(iter(wordings.values()))
    worded = principle | {"contrast": {"for": first[0], "against": first[1]}}
    members = (
        PanelMember(name="contrast", mode=ContrastMode()),
        PanelMember(name="checklist", mode=ChecklistMode()),
        PanelMember(name="compare", mode=CompareMode()),
    )
    return [
        *found,
        Asked("panel: contrast, checklist", worded, PanelMode(members=members[:2])),
        Asked("panel: contrast, checklist, compare", worded, PanelMode(members=members)),
    ]


# ------------------------------------------------------------------------------------------------------------ gold


def of_people(files: Sequence[Path], limit: int, longest: int, tokenizer: Any) -> Gold:
    """The pairs with a preference whose prompt and longer response fit, those with the smallest hashes."""

    def length(pair: Pair) -> int:
        longer = max(len(tokenizer.encode(text)) for text in (pair.a, pair.b))
        return len(encode_prompt(tokenizer, pair.prompt)) + longer

    labels = [one for one in read_gold(files).judgments if one.p_a != 0.5 and length(one.pair) <= longest]
    kept = sorted(labels, key=lambda one: content_id("asking", one.pair.id))[:limit]
    return Gold([one.pair for one in kept], [one.p_a for one in kept])


def samples(model: CachedModel, number: int, seed: int) -> dict[str, tuple[Prompt, list[str]]]:
    """Four answers of the policy to each of so many everyday prompts."""
    rows = [value["prompt"] for _, value in read_objects(resolve("prompts/sets", "everyday"))]
    prompts = [Prompt.of((Message(role="user", content=text),)) for text in rows]
    prompts.sort(key=lambda prompt: content_id("asking", seed, prompt.id))
    section = SampleSection(responses_per_prompt=4, temperature=0.8, max_tokens=56)
    found: dict[str, tuple[Prompt, list[str]]] = {prompt.id: (prompt, []) for prompt in prompts[:number]}
    for response in sample_responses(Speakers(model), prompts[:number], section, seed, "asking").responses:
        found[response.prompt_id][1].append(response.text)
    return found


def by_measure(answers: dict[str, tuple[Prompt, list[str]]], low: Callable[[str], float]) -> Gold:
    """All pairs of a prompt's answers that the measure tells apart; the lower one is better."""
    pairs, p_a = [], []
    for prompt, texts in answers.values():
        for place, one in enumerate(texts):
            for other in texts[:place]:
                if one != other and low(one) != low(other):
                    pairs.append(oriented(prompt, one, other))
                    p_a.append(float(low(pairs[-1].a) < low(pairs[-1].b)))
    return Gold(pairs, p_a)


def syllables(text: str) -> float:
    """Syllables for each word, of vowel groups: a rough count, the same for all."""
    words = [word for word in "".join(c if c.isalpha() else " " for c in text.lower()).split() if word]
    groups = [
        max(1, sum(1 for c, before in zip(w, " " + w[:-1], strict=True) if c in "aeiouy" and before not in "aeiouy"))
        for w in words
    ]
    return sum(groups) / max(1, len(words))


WARM_WORDS = """glad happy love lovely wonderful great enjoy thank thanks dear friend friends friendly kind warm welcome
please hope delightful fun beautiful comfort comforting sweet smile special together proud caring care gentle""".split()  # noqa: SIM905


def coldness(text: str) -> float:
    """Minus the warm words."""
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    return -float(sum(word in WARM_WORDS for word in words))


def off_topic(answers: dict[str, tuple[Prompt, list[str]]]) -> Gold:
    """A prompt's own answer against one to the next prompt."""
    rows = list(answers.values())
    pairs, p_a = [], []
    for (prompt, own), (_, others) in zip(rows, [*rows[1:], rows[0]], strict=True):
        for one, other in zip(own, others, strict=True):
            pairs.append(oriented(prompt, one, other))
            p_a.append(float(pairs[-1].a == one))
    return Gold(pairs, p_a)


TWO_LANGUAGES = """
What do you like about the morning? | I like the quiet and the first light. | Ich mag die Stille und das erste Licht.
How do I boil an egg? | Put it in boiling water for eight minutes. | Lege es acht Minuten in kochendes Wasser.
Where do birds go in winter? | Many of them fly south, where it is warm. | Viele fliegen in den Süden, wo es warm ist.
Why is bread good? | It smells of home and fills you up. | Es riecht nach Zuhause und macht satt.
What is rain? | Water that falls from the clouds. | Wasser, das aus den Wolken fällt.
How do I make a friend? | Ask somebody how they are, and listen. | Frage jemanden, wie es ihm geht, und höre zu.
What is a good gift? | Something that you made yourself. | Etwas, das du selbst gemacht hast.
How can I sleep better? | Go to bed at the same time every day. | Geh jeden Tag zur gleichen Zeit ins Bett.
What should I cook tonight? | Make a soup of the vegetables you have. | Koche eine Suppe aus dem Gemüse, das du hast.
Why do we dream? | Nobody knows it for certain. | Das weiß niemand genau.
How far is the moon? | It would take a train half a year to get there. | Ein Zug bräuchte ein halbes Jahr dorthin.
What is a river? | Water on its way to the sea. | Wasser auf dem Weg zum Meer.
"""
"""A question, an answer, and the same in German."""


def languages() -> Gold:
    """Answers that say the same in English and in German."""
    pairs, p_a = [], []
    for question, english, german in (line.split(" | ") for line in TWO_LANGUAGES.strip().splitlines()):
        pairs.append(oriented(Prompt.of((Message(role="user", content=question),)), english, german))
        p_a.append(float(pairs[-1].a == english))
    return Gold(pairs, p_a)


# --------------------------------------------------------------------------------------------------------- the table


def constitution(principle: dict[str, Any]) -> Constitution:
    head = {"schema": "rlaif/constitution/v1", "id": "asking", "version": "1.0.0", "title": "One principle"}
    return Constitution.model_validate(head | {"principles": [principle]})


def chooses(pair: Pair) -> bool:
    """Whether the pair's prompt is in the half by which a way may be chosen."""
    return int(content_id("half", pair.prompt_id), 16) % 2 == 0


def right(judgments: Sequence[Judgment], p_of: dict[str, float]) -> tuple[list[float], list[str]]:
    hits = [1 - abs(choice(one.p_a) - p_of[one.pair.id]) if choice(one.p_a) != 0.5 else 0.5 for one in judgments]
    return hits, [one.pair.prompt_id for one in judgments]


def tempered(mode: Mode, judgments: Sequence[Judgment], p_of: dict[str, float]) -> str:
    """The tau of `contrast` with the least log loss on the choosing half, and that loss on the other half (of a coin:
    0.693); none where no tau is better than the greatest."""
    if not isinstance(mode, ContrastMode):
        return ""
    p = np.array([one.p_a for one in judgments])
    hits, prompts = right(judgments, p_of)
    data = Confidences(np.maximum(p, 1 - p), np.array(hits), tuple(prompts))
    half = np.array([chooses(one.pair) for one in judgments])
    temperature = fit_temperature(data.take(half)).value
    loss = np.mean(np.logaddexp(0, -data.take(~half).lead / temperature))
    return f"{TAU[mode.length] * temperature:.2g} ({loss:.3f})" if temperature < TEMPERATURES[1] else "none"


def told(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-" if estimate is None else f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def measure(title: str, gold: Gold, asked: Sequence[Asked], model: CachedModel, dear: int) -> None:
    """One table."""
    p_of = dict(zip([pair.id for pair in gold.pairs], gold.p_a, strict=True))
    halves = [sum(map(chooses, gold.pairs)), sum(not chooses(pair) for pair in gold.pairs)]
    print(f"\n## {title}: {halves[0]} pairs choose, {halves[1]} report\n", flush=True)
    print(
        "| way | pairs | choosing half, % | reporting half, % | all, % | tau | length | failed | tokens per pair | s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    longer = [float(len(pair.a) > len(pair.b)) for pair in gold.pairs]
    own = clustered_mean(
        [1 - abs(x - p) for x, p in zip(longer, gold.p_a, strict=True)],
        [p.prompt_id for p in gold.pairs],
        2000,
        0.95,
        0,
    )
    print(f"| the longer | {len(gold.pairs)} | | | {told(own)} | | | | | |")
    for way in asked:
        pairs = gold.pairs[:dear] if way.dear else gold.pairs
        before, began = model.asked, time.perf_counter()
        result = judge_by_mode(
            lambda _: nullcontext(model),
            pairs,
            constitution(way.principle),
            LabelSection(mode=way.mode, min_label_mass=0.0),
            0,
        )
        seconds = time.perf_counter() - began
        cells = []
        for half in (True, False, None):
            part = [one for one in result.judgments if half is None or chooses(one.pair) is half]
            hits, clusters = right(part, p_of)
            cells.append(told(clustered_mean(hits, clusters, 2000, 0.95, 0) if hits else None))
        leads = [(one.p_a - 0.5, len(one.pair.a) - len(one.pair.b)) for one in result.judgments]
        length = float(np.corrcoef(np.array(leads).T)[0, 1]) if len(leads) > 2 else math.nan
        tokens = result.cost.prompt_tokens / len(pairs)
        fresh = f"{seconds:.0f}" if model.asked > before else ""
        print(
            f"| {way.name} | {len(pairs)} | {' | '.join(cells)} | {tempered(way.mode, result.judgments, p_of)} "
            f"| {length:+.2f} | {len(result.failures)} | {tokens:.0f} | {fresh} |",
            flush=True,
        )


def write_parts(folder: Path, gold: Gold) -> None:
    """heldout.jsonl, study.jsonl (with it: a study holds the same prompts out), judge.jsonl: the rest, to train a judge
    on; and a constitution to ask by."""
    folder.mkdir(parents=True, exist_ok=True)
    told, _ = WORDINGS["persona"]
    write_constitution(folder / "good.yaml", constitution(GOOD | {"contrast": {"for": told, "against": ""}}))
    rows = [
        (
            content_id("heldout", pair.prompt_id),  # as prompts.heldout takes them
            {"prompt": [one.model_dump() for one in pair.prompt]}
            | dict(zip(("chosen", "rejected"), (pair.a, pair.b)[:: 1 if p_a > 0.5 else -1], strict=True)),
        )
        for pair, p_a in zip(gold.pairs, gold.p_a, strict=True)
    ]
    kept = [row for _, row in sorted(rows, key=lambda one: one[0])]
    write_jsonl(folder / "heldout.jsonl", kept[:PART])
    write_jsonl(folder / "study.jsonl", kept[: 2 * PART])
    write_jsonl(folder / "judge.jsonl", kept[2 * PART :])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--people", type=Path, nargs="+", default=[])
    options.add_argument("--limit", type=int, default=1000, help="labelled pairs of each file")
    options.add_argument("--dear", type=int, default=1000, help="pairs for what is not the cheapest")
    options.add_argument("--only", default="", help="ways whose names match this pattern")
    options.add_argument("--longest", type=int, default=320, help="tokens of a prompt and its longer response")
    options.add_argument("--parts", type=Path, help="write the labels in three parts there, and judge nothing")
    options.add_argument("--truths", action="store_true")
    options.add_argument("--prompts", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--cache", type=Path, default=Path("asking.sqlite"))
    given = options.parse_args()

    def asked(principle: dict[str, Any], wordings: dict[str, tuple[str, str]]) -> list[Asked]:
        return [way for way in ways(principle, wordings) if re.search(given.only, way.name)]

    local = LocalChatModel(LocalModel(model=given.model, batch_size=64))
    model = CachedModel(local, given.cache)
    for file in given.people:
        gold = of_people([file], given.limit, given.longest, local._tokenizer)
        if given.parts:
            write_parts(given.parts, gold)
            continue
        measure(file.name, gold, asked(GOOD, WORDINGS), model, given.dear)
    if given.truths:
        answers = samples(model, given.prompts, given.seed)
        measure(
            "plainness (syllables)", by_measure(answers, syllables), asked(PLAIN, PLAIN_WORDINGS), model, given.dear
        )
        measure("warmth (warm words)", by_measure(answers, coldness), asked(WARM, WARM_WORDINGS), model, given.dear)
        measure("on topic", off_topic(answers), asked(APT, APT_WORDINGS), model, given.dear)
        measure("English", languages(), asked(ENGLISH, ENGLISH_WORDINGS), model, given.dear)
    model.close()


if __name__ == "__main__":
    main()
