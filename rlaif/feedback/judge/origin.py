"""Label pairs by where their responses came from (RLCD, arXiv 2307.12950), or hold the judge's labels against that.

No model is asked here. `feedback/origin.py` says what came from where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlaif.config.feedback import SampleSection
from rlaif.constitution import Constitution
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.origin import Crossing
from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Pair, PrincipleJudgment, Provenance
from rlaif.templates import load_template


def label_by_origin(
    pairs: Sequence[Pair],
    crossed: Mapping[str, Crossing],
    section: SampleSection,
    constitution: Constitution,
    revision: str,
    seed: int,
) -> JudgeResult:
    """A judgment of each pair: p_origin for the response that was written under `for`, by that one principle alone.

    Provenance names the model that wrote the responses, of this revision, in the place of a judge.
    """
    contrast = section.contrast
    assert contrast is not None
    template = load_template(contrast.template, "contrast")
    knobs = section.model_dump(include={"temperature", "top_p", "max_tokens"})
    provenance = Provenance(
        constitution=constitution.id,
        constitution_version=constitution.version,
        constitution_hash=constitution.hash,
        judge="",
        judge_revision=revision,
        template=template.name,
        template_hash=template.hash,
        sampling=knobs | {"p_origin": contrast.p_origin, "seed": seed},
        aggregation="origin",
    )
    judgments = []
    for pair in pairs:
        principle, text, model = crossed[pair.id]
        p_a = contrast.p_origin if pair.a == text else 1 - contrast.p_origin
        judgments.append(
            Judgment(
                pair=pair,
                source="ai",
                annotator=f"origin:{model}",
                p_a=p_a,
                principles=(PrincipleJudgment(principle=principle, checked=False, p_a=p_a),),
                provenance=provenance.model_copy(update={"judge": model}),
            )
        )
    return JudgeResult(judgments=tuple(judgments), failures=())


class OriginAgreement(NamedTuple):
    """How many judgments prefer the response written under `for`, the other, or neither."""

    judge_with_origin: int
    judge_against_origin: int
    judge_even: int


def hold_to_origin(
    result: JudgeResult, crossed: Mapping[str, Crossing], agreed_only: bool
) -> tuple[JudgeResult, OriginAgreement]:
    """The judge's result and how often it agrees with the origin of the pairs.

    With `agreed_only` a judgment that prefers the other becomes a tie: its p_a is 0.5, and what its principles say
    stays. So nothing trains on it where ties are dropped, and `rlaif route` sends it to people first.
    """
    judgments = []
    counts = {1.0: 0, 0.0: 0, 0.5: 0}
    for judgment in result.judgments:
        preferred = choice(judgment.p_of(crossed[judgment.pair.id].text))
        counts[preferred] += 1
        opposed = agreed_only and preferred == 0.0
        judgments.append(judgment.model_copy(update={"p_a": 0.5}) if opposed else judgment)
    return result._replace(judgments=tuple(judgments)), OriginAgreement(counts[1.0], counts[0.0], counts[0.5])
