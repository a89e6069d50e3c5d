"""Whom the policy imitates: the demonstrations of every source, each once."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config import Recipe
from rlaif.config.feedback import SampleSection
from rlaif.config.optimise import (
    ChosenDemonstrations,
    HumanDemonstrations,
    JudgeDemonstrations,
    RunDemonstrations,
    SftData,
)
from rlaif.console import bar, say
from rlaif.feedback.failures import told
from rlaif.feedback.pairs import read_preferences
from rlaif.feedback.prompts import DemonstrationText, not_to_train_on, read_demonstrations, read_prompts
from rlaif.feedback.sample import Speakers, check_sample_failures, sample_responses
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.processes import leads
from rlaif.records import Demonstration, Failure, Message, Prompt, Response, prompt_of
from rlaif.run_folder import Run
from rlaif.stages.stage import asking, made, read_if_there


def demonstrations(recipe: Recipe, run: Run, data: SftData) -> tuple[list[DemonstrationText], dict[str, int]]:
    """The demonstrations that `data` names, each once; and how many were left out: `dropped`, because their prompt is
    kept for evaluation, and `failed`, rows of a file that show nothing."""
    failed: dict[str, int] = {}
    split = read_prompts(recipe.prompts)
    if isinstance(data, RunDemonstrations | HumanDemonstrations):
        revised = isinstance(data, RunDemonstrations)
        file = made(run.demonstrations, "label") if revised else made(run.human_demonstrations, "pairs")
        rows = read_jsonl(file, Demonstration)
        last = {row.prompt_id: row.round for row in sorted(rows, key=lambda row: row.round)}  # people have one round
        found = [
            DemonstrationText(prompt_of(row), row.completion[-1].content)
            for row in rows
            if row.round == last[row.prompt_id]
        ]
    elif isinstance(data, ChosenDemonstrations):
        cut_off = cut_off_texts(run)
        found = [
            DemonstrationText(prompt_of(row), text, (row.prompt_id, text) not in cut_off)
            for row in read_preferences(made(run.preferences, "pairs"))
            if row.split == "train" and row.p_chosen > 0.5
            for text in [row.chosen[-1].content]
        ]
    elif isinstance(data, JudgeDemonstrations):
        found = _answers(recipe, run, data, split.train)
    else:
        found, failures = read_demonstrations(data, recipe.prompts.system, recipe.prompts.max_failures)
        if failures and leads():
            write_jsonl(run.demonstration_failures, failures)
            failed = {"failed": len(failures)}
            say(f"  demonstrations: {len(failures)} of {len(found) + len(failures)} rows failed: {told(failures)}")
    never = not_to_train_on(recipe.prompts, split, {s.prompt.id: s.prompt.messages for s in found})
    same = {prompt.messages for prompt in split.heldout}
    kept = [s for s in found if s.prompt.id not in never and s.prompt.messages not in same]
    each = {(s.prompt.messages, s.text): s for s in kept}
    return list(each.values()), {"dropped": len(found) - len(kept), **failed}


def _answers(recipe: Recipe, run: Run, data: JudgeDemonstrations, prompts: Sequence[Prompt]) -> list[DemonstrationText]:
    """The judge's own answers, kept in judge_demonstrations.jsonl, and its failures: an error or a blank answer is
    never a demonstration. The first process asks."""
    from rlaif.training import parallel

    def ask() -> list[DemonstrationText]:
        # Not validated: a judge may answer greedily, a policy that is sampled may not.
        section = SampleSection.model_construct(temperature=data.temperature, top_p=1.0, max_tokens=data.max_tokens)
        with asking(recipe.judge, run) as judge, bar("optimise", len(prompts), "demonstrations") as advance:
            result = sample_responses(Speakers(judge, None, advance), prompts, section, recipe.seed, "optimise", n=1)
        blank = [r for r in result.responses if not r.text]
        failures = [Failure(stage="optimise", id=r.prompt_id, reason="empty reply", detail=r.model) for r in blank]
        answered = tuple(r for r in result.responses if r.text)
        result = result._replace(responses=answered, failures=(*result.failures, *failures))
        write_jsonl(run.demonstration_failures, result.failures)
        check_sample_failures(result, recipe.label.max_failures, "optimise.data.kind=judge")
        write_jsonl(run.judge_demonstrations, [_as_row(response) for response in result.responses])
        return [DemonstrationText(prompt_of(r), r.text, r.finished) for r in result.responses]

    return parallel.first(ask)


def _as_row(response: Response) -> Demonstration:
    return Demonstration(
        prompt=response.prompt,
        completion=(Message(role="assistant", content=response.text),),
        source="ai",
        prompt_id=response.prompt_id,
        round=0,
        tags=response.tags,
    )


def cut_off_texts(run: Run) -> set[tuple[str, str]]:
    """(prompt id, text) of the run's samples that the token limit ended: whoever learns from one must not learn to
    stop there."""
    return {(r.prompt_id, r.text) for r in read_if_there(run.responses, Response) if not r.finished}
