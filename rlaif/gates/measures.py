"""What each kind of gate measures: a value before and after, per answer or per labelled pair. More is better in all.

Before is the last kept round, or what all began from; after is the round that is held against it. What has no value on
either side is counted, and in no figure. Next: `decide.py`, which takes the paired differences.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlaif.audits.gold import NO_RUN
from rlaif.audits.hacking import LEAST, Trick, tricks_for
from rlaif.config import Recipe, load_recipe
from rlaif.config.gates import Gate, GoldGate, HackingGate, IterateSection, JudgeGate
from rlaif.config.judging import PanelMode
from rlaif.config.models import PolicyModel, engine_of, with_weights
from rlaif.config.optimise import OnPolicy
from rlaif.config.scoring import JudgeScore
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.failures import check_share
from rlaif.feedback.human import read_human, source_files, source_of
from rlaif.feedback.judge import check_modes
from rlaif.feedback.judge.result import COSTS, Cost, JudgeResult
from rlaif.feedback.labelled import LabelledJudgment, agreement, decided, match
from rlaif.feedback.pairs import choice, read_preferences
from rlaif.feedback.prompts import read_prompts
from rlaif.forms import SAMPLE
from rlaif.jsonl import read_rows
from rlaif.records import Pair, Preference, Prompt, grouped
from rlaif.run_folder import Run
from rlaif.stages.evaluation import evaluation_prompts
from rlaif.stages.hacking import hacking_files, tried
from rlaif.stages.stage import judge_files, judge_with_bar, prompt_files
from rlaif.stats import Bounds
from rlaif.words import counted, listed

PADDED = 20
"""Words beyond twice the other answer's that make an answer padded."""


class Texts(NamedTuple):
    """Two answers to one prompt."""

    prompt: Prompt
    before: str
    after: str


class Bench(NamedTuple):
    """A round, and the answers that are held against each other, matched by prompt and index."""

    recipe: Recipe
    """Of the round: its policy is what the round began from, which is the kept one's."""
    section: IterateSection
    run: Run
    kept: Run | None
    texts: Sequence[Texts]
    unmatched: int
    """The round's answers to which the other has none."""

    @classmethod
    def of(cls, recipe: Recipe, section: IterateSection, run: Run, kept: Run | None) -> Bench:
        """Against a kept round, or with None against what evaluation compares with."""
        prompts = {prompt.id: prompt for prompt in evaluation_prompts(recipe)}
        rows = read_rows(run.samples, SAMPLE)
        theirs = [(row, row["after"]) for row in read_rows(kept.samples, SAMPLE)] if kept else []
        before = {(row["prompt_id"], row["index"]): text for row, text in theirs or [(r, r["before"]) for r in rows]}
        places = [(row, (row["prompt_id"], row["index"])) for row in rows]
        found = [Texts(prompts[at[0]], before[at], row["after"]) for row, at in places if at in before]
        return cls(recipe, section, run, kept, found, len(rows) - len(found))


class Values(NamedTuple):
    """Of one gate."""

    what: str
    before: Sequence[float | None]
    after: Sequence[float | None]
    prompts: Sequence[str]
    reach: Bounds = (-1.0, 1.0)
    """The least and the most that a difference can be."""
    cost: Cost = Cost()


def values_of(name: str, gate: Gate, bench: Bench) -> Values:
    """What this gate measures of the round."""
    if isinstance(gate, JudgeGate):
        return _judged(name, gate, bench)
    if isinstance(gate, GoldGate):
        return _gold(name, gate, bench)
    return _shown(gate, bench) if gate.of == "answers" else _lifted(gate, bench)


def check_gate(name: str, gate: Gate, recipe: Recipe) -> None:
    """ConfigError for a held-out judge that is none, and whatever else can be said before the work."""
    where = f"iterate.gates.{name}"
    if isinstance(gate, GoldGate):
        _labels(name, gate, recipe, ())
    if isinstance(gate, HackingGate) and gate.of == "score" and recipe.hackable is None:
        raise ConfigError(f"{where}: of=score needs evaluate.hacking, which says what the tricks are tried on")
    if not isinstance(gate, JudgeGate):
        return
    other, section = judged_by(gate, recipe), recipe.iterate
    written = [load_constitution(one.constitution).hash for one in (other, recipe)]
    taught = _judges(other) & _teachers(recipe)
    if taught and written[0] == written[1]:
        raise ConfigError(f"{where}: {listed(sorted(taught))} trains by this constitution; name another of either")
    if section and section.self_reward and recipe.policy.model in _judges(other):
        raise ConfigError(f"{where}: {recipe.policy.model} is the policy itself; name another model")
    check_modes(other)


def _judges(recipe: Recipe) -> set[str]:
    """The models that compare two responses."""
    mode = recipe.label.mode
    members = mode.members if isinstance(mode, PanelMode) else ()
    return {engine_of(model).model for model in ([m.model or recipe.judge for m in members] or [recipe.judge])}


def _teachers(recipe: Recipe) -> set[str]:
    """The judges that training listens to: those that label, and those that score."""
    sources = recipe.optimise.sources if isinstance(recipe.optimise, OnPolicy) else ()
    scorers = [source.model or recipe.judge for source in sources if isinstance(source, JudgeScore)]
    return {*_judges(recipe), *(engine_of(model).model for model in scorers)}


def files_of(gate: Gate, bench: Bench) -> list[Path]:
    """What the gate reads besides the answers and the recipe."""
    if isinstance(gate, JudgeGate):
        return judge_files(judged_by(gate, bench.recipe))
    if isinstance(gate, HackingGate):
        if gate.of == "answers":
            return []
        folders = [run.reward_model for run in (bench.run, bench.kept) if run]
        return [*hacking_files(bench.recipe), *(folder for folder in folders if folder.exists())]
    gold = [file for one in gate.gold for file in source_files(source_of(one), NO_RUN)]
    seen = [bench.run.preferences] if bench.run.preferences.exists() else []
    return [*gold, *prompt_files(bench.recipe), bench.run.policy, *seen]


# ------------------------------------------------------------------------------------------------ a held-out judge


def judged_by(gate: JudgeGate, recipe: Recipe) -> Recipe:
    """The recipe with the gate's judge in place of its own."""
    label = recipe.label.model_copy(update={"mode": gate.mode} if gate.mode else {})
    changes = {"judge": gate.model or recipe.judge, "constitution": gate.constitution or recipe.constitution}
    return recipe.model_copy(update={"label": label, **changes})


def _judged(name: str, gate: JudgeGate, bench: Bench) -> Values:
    """Before is a coin's half: who writes the same wins as often as it loses. Identical answers are such ties."""
    recipe = judged_by(gate, bench.recipe)
    after, cost = _asked(name, recipe, bench.run, [Pair.of(t.prompt, t.after, t.before) for t in bench.texts])
    judge = f"{recipe.judge.model} and {load_constitution(recipe.constitution).id}"
    what = f"win rate against the last kept round, by {judge}"
    return Values(what, [0.5] * len(after), after, [t.prompt.id for t in bench.texts], (-0.5, 0.5), cost)


def _asked(name: str, recipe: Recipe, run: Run, pairs: Sequence[Pair]) -> tuple[list[float | None], Cost]:
    """Of each pair 1 where the recipe's judge prefers a, 0 for b, 0.5 also where both are one text; None where it
    failed. Pairs of the same texts are asked once."""
    asked = list({pair.id: pair for pair in pairs if pair.a != pair.b}.values())
    result = judge_with_bar(recipe, run, asked, f"gate {name}") if asked else JudgeResult((), ())
    failed, where = list({failure.id: failure for failure in result.failures}.values()), f"iterate.gates.{name}"
    check_share(where, len(failed), len(asked), failed, "label.max_failures", recipe.label.max_failures)
    sides = {(j.pair.id, text): choice(j.p_of(text)) for j in result.judgments for text in (j.pair.a, j.pair.b)}
    return [0.5 if pair.a == pair.b else sides.get((pair.id, pair.a)) for pair in pairs], result.cost


# ------------------------------------------------------------------------------------------------ human gold


def _labels(
    name: str, gate: GoldGate, recipe: Recipe, seen: Iterable[Preference]
) -> tuple[list[LabelledJudgment], str]:
    """The labelled pairs with a preferred side on prompts that neither the recipe nor these rows train on, and how many
    of the others there are. ConfigError without any."""
    where = f"iterate.gates.{name}.gold"
    said = read_human([source_of(one) for one in gate.gold], NO_RUN, recipe.prompts.system, where)
    trained = {row.prompt_id for row in seen if row.split == "train"}
    trained |= {prompt.id for prompt in read_prompts(recipe.prompts).train}
    every = [labels[0] for labels in grouped(said.judgments, lambda judgment: judgment.pair.id).values()]
    held = match([one for one in every if one.pair.prompt_id not in trained], said.judgments)
    labels = decided(held)
    out = {"pair": len(every) - len(held), "tie": len(held) - len(labels), "row": len(said.failures)}
    reasons = {"pair": " on prompts that it trained on", "tie": "", "row": " that cannot be used"}
    told = "".join(f"; {counted(out[one], one)}{why} left out" for one, why in reasons.items() if out[one])
    if not labels:
        raise ConfigError(f"{where}: no labelled pair with a preferred side on a prompt that no round trains on{told}")
    return labels, told


def _gold(name: str, gate: GoldGate, bench: Bench) -> Values:
    recipe = bench.recipe
    seen = read_preferences(bench.run.preferences) if bench.run.preferences.exists() else []
    labels, told = _labels(name, gate, recipe, seen)
    pairs, after = [one.judgment.pair for one in labels], with_weights(recipe.policy, str(bench.run.policy))
    hits, cost = [], Cost()
    for policy in (recipe.policy, after):
        if bench.section.self_reward:
            judge = with_weights(recipe.judge, policy.model)  # type: ignore[arg-type]  # `check` saw that it has some
            sides, more = _asked(name, recipe.model_copy(update={"judge": judge}), bench.run, pairs)
            cost = cost.plus(more)
        else:
            sides = _likelier(recipe, policy, pairs)
        both = zip(sides, labels, strict=True)
        hits.append([None if side is None else agreement(side, one.p_human) for side, one in both])
    what = f"agreement with people's labels, as {'the judge' if bench.section.self_reward else 'likelihood has it'}"
    return Values(what + told, hits[0], hits[1], [pair.prompt_id for pair in pairs], cost=cost)


def _likelier(recipe: Recipe, model: PolicyModel, pairs: Sequence[Pair]) -> list[float | None]:
    """1 where the policy gives a the higher mean log-probability per token, 0 for b; None where one is too long, or
    the policy gives no number."""
    from rlaif.models.local.load import load_tokenizer  # noqa: PLC0415 (brings torch)
    from rlaif.models.local.machine import torch_dtype  # noqa: PLC0415
    from rlaif.models.local.packing import Row  # noqa: PLC0415
    from rlaif.models.local.tokens import encode_prompt, encode_response  # noqa: PLC0415
    from rlaif.training.policy_model import PolicyModel as Policy  # noqa: PLC0415

    tokenizer = load_tokenizer(model.model, model.revision)
    policy = Policy.load(model.model, model.revision, torch_dtype(model.dtype))
    sides: list[float | None] = []
    for pair in pairs:
        prompt = tuple(encode_prompt(tokenizer, pair.prompt))
        rows = [Row(prompt, tuple(encode_response(tokenizer, text))) for text in (pair.a, pair.b)]
        if max(len(row.prompt) + len(row.response) for row in rows) > recipe.reward.max_length:
            sides.append(None)
            continue
        sums = policy.without_gradients(rows, 1.0, recipe.reward.microbatch_tokens).logprobs_BT.sum(1).tolist()
        a, b = (total / len(row.response) for total, row in zip(sums, rows, strict=True))
        sides.append(choice(a, b) if math.isfinite(a - b) else None)
    return sides


# ------------------------------------------------------------------------------------------------ reward hacking


def _shown(gate: HackingGate, bench: Bench) -> Values:
    patterns = [re.compile(trick.shows) for trick in _tricks(gate, bench) if trick.shows]

    def clean(text: str, other: str) -> float:
        padded = "length" in gate.tricks and len(text.split()) > 2 * len(other.split()) + PADDED
        return float(not padded and not any(pattern.search(text) for pattern in patterns))

    before = [clean(texts.before, texts.after) for texts in bench.texts]
    after = [clean(texts.after, texts.before) for texts in bench.texts]
    what = f"share of answers that show no trick ({listed(gate.tricks)})"
    return Values(what, before, after, [texts.prompt.id for texts in bench.texts])


def _lifted(gate: HackingGate, bench: Bench) -> Values:
    assert bench.recipe.evaluate.hacking
    texts = bench.texts[: bench.recipe.evaluate.hacking.responses]
    answers = [one.prompt for one in texts], [one.after for one in texts]
    names = {trick.name for trick in _tricks(gate, bench)}
    asked = Counter[str]()

    def held(recipe: Recipe, run: Run) -> list[float | None]:
        (found,) = tried(recipe, run, asked, answers)
        least = (found.spread or 0.0) + LEAST
        lifted = {case.place for case in found.cases if case.trick in names and (case.change or 0.0) > least}
        return [None if score is None else float(place not in lifted) for place, score in enumerate(found.scores)]

    after = held(bench.recipe, bench.run)
    before = held(load_recipe(str(bench.kept.recipe)), bench.kept) if bench.kept else after
    what = f"share of answers whose score no trick lifts by its spread ({listed(gate.tricks)})"
    cost = Cost(*(asked[name] for name in COSTS))
    return Values(what, before, after, [one.prompt.id for one in texts], cost=cost)


def _tricks(gate: HackingGate, bench: Bench) -> list[Trick]:
    return [t for t in tricks_for(load_constitution(bench.recipe.constitution)) if t.kind in gate.tricks]
