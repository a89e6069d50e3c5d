"""The rows that stages hand to each other, and the identities and seeds derived from their content.

    Prompt -> Response -> Pair -> Verdict -> PrincipleJudgment -> Judgment -> Preference      (or a Failure)
                       -> PrincipleScore -> Score;  Ranking;  Round -> Revision -> Demonstration;  Answer;  Edit

Records are frozen and refuse unknown fields. No record holds a clock time: equal work gives equal bytes.
`p_a` is always the probability that response `a` of the pair is the better one; `swapped()` maps it to 1 - p_a.
"""

from rlaif.records.core import (
    TIE_ROUNDING,
    Demonstration,
    Failure,
    Message,
    Messages,
    Origin,
    Pair,
    Preference,
    Prompt,
    Record,
    Response,
    Role,
    Side,
    Source,
    content_id,
    derive_seed,
    grouped,
    oriented,
    plain,
    prompt_of,
)
from rlaif.records.judged import (
    Answer,
    DensityRatio,
    Edit,
    Judgment,
    MemberJudgment,
    PrincipleJudgment,
    PrincipleScore,
    Provenance,
    Ranking,
    Reliability,
    Revision,
    Round,
    Score,
    Verdict,
)

__all__ = [
    "TIE_ROUNDING",
    "Answer",
    "Demonstration",
    "DensityRatio",
    "Edit",
    "Failure",
    "Judgment",
    "MemberJudgment",
    "Message",
    "Messages",
    "Origin",
    "Pair",
    "Preference",
    "PrincipleJudgment",
    "PrincipleScore",
    "Prompt",
    "Provenance",
    "Ranking",
    "Record",
    "Reliability",
    "Response",
    "Revision",
    "Role",
    "Round",
    "Score",
    "Side",
    "Source",
    "Verdict",
    "content_id",
    "derive_seed",
    "grouped",
    "oriented",
    "plain",
    "prompt_of",
]
