"""`rlaif explain`: what in a response moved the reward model, a principle's head or the judge.

A model in this process tells it by token (integrated gradients), whatever else scores texts by sentence: by how much
the score falls when the sentence is left out. Rows go to explain.jsonl of the run; the report colours its examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Literal, NamedTuple

from rlaif.audits.hacking import Score, sentences
from rlaif.audits.judges import open_judges
from rlaif.audits.probes import judged_only
from rlaif.config import Recipe
from rlaif.config.judging import CompareMode
from rlaif.config.models import LocalModel
from rlaif.console import bar
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, ModelError, did_you_mean
from rlaif.evaluation.examples import firsts
from rlaif.feedback.judge import judge_by_mode
from rlaif.feedback.judge.compare import question
from rlaif.forms import SAMPLE
from rlaif.jsonl import read_rows, write_jsonl
from rlaif.models.open import open_model
from rlaif.records import Pair, Prompt, Record, Side
from rlaif.run_folder import Run
from rlaif.templates import load_template

MARK = "\u2042here\u2042"
"""Stands for a response; no template changes it."""
Piece = tuple[str, float | None]
Method = Literal["tokens", "sentences"]


class Explained(Record):
    """One response, in pieces, each with what it did to the value; None where a sentence could not be left out."""

    prompt_id: str
    index: int
    side: Literal["before", "after"]
    of: str
    """What gave the value: reward_model, head PRINCIPLE or judge PRINCIPLE."""
    method: Method
    text: str
    pieces: tuple[Piece, ...]
    value: float
    baseline: float | None
    """Of a blank response, or of none; None where that has no value."""
    gap: float | None
    """The sum of the pieces less (value - baseline); sentences need not add up."""


class Wanted(NamedTuple):
    """One response to explain, and the response that a judge compares it with."""

    prompt: Prompt
    number: int
    side: Literal["before", "after"]
    text: str
    other: str


Found = Iterator[Explained | str]
"""What explains a response, or why nothing does."""


def occlusion(score: Score, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[tuple[list[Piece], Any]]:
    """Of each text its sentences, each with how far the score falls without it; and (value, baseline), of which the
    baseline is the score of no text at all. All that is to be scored is asked in one call."""
    parts = [sentences(text) for text in texts]
    asked: list[str] = []
    for text, own in zip(texts, parts, strict=True):
        without = ["".join(own[:i] + own[i + 1 :]).strip() for i in range(len(own))]
        asked += [text, "", *without]
    whose = [prompt for prompt, own in zip(prompts, parts, strict=True) for _ in range(len(own) + 2)]
    values = iter(None if v is None or not math.isfinite(v) else v for v in score(whose, asked))
    found = []
    for own in parts:
        value, empty = next(values), next(values)
        rest = [next(values) for _ in own]
        falls = [None if value is None or one is None else value - one for one in rest]
        found.append((list(zip(own, falls, strict=True)), (value, empty)))
    return found


def explain_run(
    recipe: Recipe, run: Run, of: str, principle: str | None, method: Method | None, limit: int | None
) -> tuple[int, list[str]]:
    """Write explain.jsonl: how many rows, and why each response that is missing has none.

    `of` is reward_model or judge; `principle` names the head, or what the judge is asked. The first `limit` responses,
    by default those that the report shows, are explained, before and after.
    """
    explained = _by_model if of == "reward_model" else _by_judge
    found = list(explained(recipe, run, principle, method, _wanted(run, limit or recipe.evaluate.examples)))
    rows = [one for one in found if isinstance(one, Explained)]
    write_jsonl(run.explained, rows)
    return len(rows), [one for one in found if isinstance(one, str)]


def _wanted(run: Run, limit: int) -> list[Wanted]:
    if not run.samples.exists():
        raise ConfigError(f"{run.folder}: has no {run.samples.name}; run its stage evaluate first")
    found = []
    for row in firsts(read_rows(run.samples, SAMPLE), limit):
        prompt, one, two = Prompt(id=row["prompt_id"], messages=row["prompt"]), row["before"], row["after"]
        found += [Wanted(prompt, row["index"], "before", one, two), Wanted(prompt, row["index"], "after", two, one)]
    return found


def _by_model(recipe: Recipe, run: Run, head: str | None, method: Method | None, wanted: Sequence[Wanted]) -> Found:
    if not run.reward_model.exists():
        raise ConfigError(f"{run.folder}: has no reward model; explain the judge with --of judge")
    name, longest = f"head {head}" if head else "reward_model", recipe.reward.max_length
    prompts, texts = [one.prompt for one in wanted], [one.text for one in wanted]
    if method == "sentences":
        from rlaif.models.local.machine import torch_dtype  # noqa: PLC0415 (brings torch)
        from rlaif.rewards.model import FolderReward  # noqa: PLC0415

        folder, at_once = run.reward_model, recipe.reward.microbatch_tokens
        reward = FolderReward(folder, torch_dtype("float32"), at_once, longest, centred=False, head=head)
        yield from _by_sentence(reward.score, name, wanted)
        return
    from rlaif.training.reward.explain import explain_scores  # noqa: PLC0415 (brings torch)

    with bar("explain", len(wanted), "responses") as advance:
        found = explain_scores(run.reward_model, head, prompts, texts, longest)
        for one, (pieces, by) in zip(wanted, found, strict=True):
            yield _row(one, name, "tokens", pieces, by.value, by.baseline)
            advance(1)


def _by_judge(recipe: Recipe, run: Run, name: str | None, method: Method | None, wanted: Sequence[Wanted]) -> Found:
    whole = judged_only(load_constitution(recipe.constitution))
    known = {p.id: p for p in whole.principles} if whole else {}
    if name is None and len(known) == 1:
        name = next(iter(known))
    if name not in known:
        near = did_you_mean(name or "", known)
        raise ConfigError(f"--principle {name}: is none that the judge of this run is asked about{near}")
    assert whole is not None
    principle = known[name].model_copy(update={"tags": ()})  # samples do not say their prompts' tags
    asked = whole.model_copy(update={"principles": (principle,)})
    by_token = isinstance(recipe.judge, LocalModel) and isinstance(recipe.label.mode, CompareMode)
    if method == "tokens" and not by_token:
        raise ConfigError("--method tokens: only a judge with backend local and mode compare can; use sentences")
    different = [one for one in wanted if one.text != one.other]
    yield from ["both responses are the same"] * (len(wanted) - len(different))
    if method == "sentences" or not by_token:
        yield from _judged_by_sentence(recipe, run, asked, different)
        return
    opened = open_model(recipe.judge.model_copy(update={"dtype": "float32"}))
    with closing(opened) as model, bar("explain", len(different), "responses") as advance:
        for one in different:
            try:
                yield _both_orders(model, recipe, asked, one)
            except ModelError as error:
                yield str(error)
            advance(1)


def _both_orders(model: Any, recipe: Recipe, asked: Constitution, one: Wanted) -> Explained:
    """The log-odds that this response is preferred, the mean of both orders."""
    mode = recipe.label.mode
    assert isinstance(mode, CompareMode)
    template, (principle,) = load_template(mode.template), asked.principles
    pair, blanked = (_pair(one, text) for text in (one.text, MARK))

    def explained(first: Side) -> Any:
        request, marked = (question(template, asked, p, principle, first) for p in (pair, blanked))
        return model.explained(request, marked.messages, MARK, template.defused(one.text))

    (as_a, ours), (as_b, theirs) = explained("a"), explained("b")
    if [text for text, _ in ours] != [text for text, _ in theirs]:
        raise ModelError("the response's tokens are others in the other order; use --method sentences")
    pieces = [(text, (x - y) / 2) for (text, x), (_, y) in zip(ours, theirs, strict=True)]
    value, baseline = (as_a.value - as_b.value) / 2, (as_a.baseline - as_b.baseline) / 2
    return _row(one, f"judge {principle.id}", "tokens", pieces, value, baseline)


def _judged_by_sentence(recipe: Recipe, run: Run, asked: Constitution, wanted: Sequence[Wanted]) -> Found:
    """The log-odds that each is preferred to its other response, with each sentence left out; any engine, any mode."""
    with open_judges(recipe.judge, run.scope()) as judges, bar("explain", len(wanted), "responses") as advance:
        for one in wanted:

            def score(prompts: Sequence[Prompt], texts: Sequence[str], one: Wanted = one) -> list[float | None]:
                pairs = [_pair(one, text).model_copy(update={"id": f"{i}"}) for i, text in enumerate(texts)]
                own = [pair for pair in pairs if pair.a != pair.b]
                result = judge_by_mode(judges.cached, own, asked, recipe.label, recipe.seed)
                p = {j.pair.id: min(max(j.p_a, 1e-9), 1 - 1e-9) for j in result.judgments}
                return [math.log(p[pair.id] / (1 - p[pair.id])) if pair.id in p else None for pair in pairs]

            yield from _by_sentence(score, f"judge {asked.principles[0].id}", [one])
            advance(1)


def _by_sentence(score: Score, name: str, wanted: Sequence[Wanted]) -> Found:
    found = occlusion(score, [one.prompt for one in wanted], [one.text for one in wanted])
    for one, (pieces, (value, empty)) in zip(wanted, found, strict=True):
        yield "has no score" if value is None else _row(one, name, "sentences", pieces, value, empty)


def _row(
    one: Wanted, of: str, method: Method, pieces: Sequence[Piece], value: float, baseline: float | None
) -> Explained:
    known = [part for _, part in pieces]
    total = None if None in known else sum(part for part in known if part is not None)
    return Explained(
        prompt_id=one.prompt.id,
        index=one.number,
        side=one.side,
        of=of,
        method=method,
        text=one.text,
        pieces=tuple((text, None if part is None else round(part, 6)) for text, part in pieces),
        value=round(value, 6),
        baseline=None if baseline is None else round(baseline, 6),
        gap=None if total is None or baseline is None else round(total - (value - baseline), 6),
    )


def _pair(one: Wanted, text: str) -> Pair:
    return Pair(id=one.prompt.id, prompt_id=one.prompt.id, prompt=one.prompt.messages, a=text, b=one.other)
