"""Was it worth it: the stages evaluate and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.config import Recipe
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import check_sample_failures
from rlaif.jsonl import read_objects, write_json, write_jsonl
from rlaif.records import Failure, Judgment, Response
from rlaif.run import Run
from rlaif.stages.asking import cost_of, draw_samples, judge_with_bar, made, read_if_there

BEFORE_EVALUATION = ("sample", "label", "pairs", "reward", "optimise")


def evaluate(recipe: Recipe, run: Run) -> dict[str, Any]:
    """evaluation.json: the policy against the reference on held-out prompts."""
    from rlaif.evaluation.evaluate import EvaluationInputs, sample_rows
    from rlaif.evaluation.evaluate import evaluate as measure
    from rlaif.evaluation.winrate import evaluation_pairs, with_partner
    from rlaif.training.measure import measure_responses

    reward_model, policy = made(run.reward_model, "reward"), made(run.policy, "optimise")
    trained = recipe.policy.model_copy(update={"model": str(policy), "revision": None})
    prompts = read_prompts(recipe.prompts).heldout
    # One model after the other: each is closed, and a server stopped, before the next one needs the GPU.
    sampled: list[Sequence[Response]] = []
    unsampled: list[Failure] = []
    for model in (recipe.policy, trained):
        result = draw_samples(recipe, run, model, prompts, "evaluate", recipe.evaluate.responses_per_prompt)
        unsampled += result.failures
        write_jsonl(run.evaluation_failures, unsampled)
        check_sample_failures(result, recipe.label.max_failures, "evaluate")
        sampled.append(result.responses)
    before, after = with_partner(*sampled)
    judged = judge_with_bar(recipe, run, evaluation_pairs(before, after), "evaluate")
    write_jsonl(run.evaluation_failures, [*unsampled, *judged.failures])
    measured = measure_responses(recipe, reward_model, policy, before, after)
    inputs = EvaluationInputs(
        constitution=load_constitution(recipe.constitution),
        before=before,
        after=after,
        judgments=judged.judgments,
        label_judgments=read_if_there(run.judgments, Judgment),
        failures=[*read_if_there(run.failures, Failure), *judged.failures],
        heldout_rows=[row for _, row in read_objects(run.heldout)],
        kl=measured.kl,
        scores_before=measured.scores_before,
        scores_after=measured.scores_after,
        cost=_cost(run, cost_of(judged)),
    )
    write_jsonl(run.samples, sample_rows(inputs))
    write_jsonl(run.evaluation_judgments, judged.judgments)
    write_json(run.evaluation, measure(inputs, recipe.evaluate, recipe.seed))
    return {"heldout_prompts": len(prompts), "unsampled": len(unsampled), **cost_of(judged)}


def _cost(run: Run, here: dict[str, int]) -> dict[str, Any]:
    """Judge calls and tokens of labelling and evaluation, and the seconds that each stage so far took."""
    done = run.read_manifest()["stages"]
    labelled = done.get("label", {})
    cost: dict[str, Any] = {key: labelled.get(key, 0) + value for key, value in here.items()}
    return cost | {"seconds": {name: mark["seconds"] for name, mark in done.items() if name in BEFORE_EVALUATION}}


def report(recipe: Recipe, run: Run) -> dict[str, Any]:
    """report.html."""
    from rlaif.evaluation.report import write_report

    write_report(run.folder)
    return {}
