"""Where human feedback comes from and in which form. `feedback/human/` reads each of them.

Every form may carry `annotator` (who it was, a text or a number; none = one nameless `human`), `seconds` (how long the
answer took) and `reason`. A prompt is a text, an HH-RLHF transcript or a message list.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Positive, Section
from rlaif.config.sources import FileSource, HubSource


class Comparisons(Section):
    """`chosen` and `rejected`: HH-RLHF transcripts, TRL rows (explicit or implicit prompt), our preferences.jsonl.

    Also UltraFeedback binarized and the HHH evaluation's `text_correct` and `text_incorrect`. A row's own figures
    (`score_chosen` and `score_rejected`, `chosen-rating`, `margin`, ...) are held against the label: equal ones are a
    tie, and a row in which rejected is ahead is a failure. Margins from 0 to 1 are 2 p - 1 (our OpenRLHF export).
    """

    kind: Literal["comparisons"] = "comparisons"


class Shp(Section):
    """Stanford Human Preferences: `history`, `human_ref_A`, `human_ref_B`, `labels` (1 = A), `score_ratio`."""

    kind: Literal["shp"] = "shp"
    min_ratio: float = Field(default=1.0, ge=1)
    """Pairs whose votes are less far apart are left out and counted; the data set's card advises 2 and more."""


class Ratings(Section):
    """One rated response a row. Two responses to a prompt, rated by one annotator, are a pair past the gap."""

    kind: Literal["ratings"] = "ratings"
    prompt: str = "prompt"
    """The column of the prompt."""
    response: str = "response"
    """The column of the response."""
    rating: str | dict[str, float] = "rating"
    """The column of the rating; or several with their weights, and the rating is their weighted sum (HelpSteer)."""
    annotator: str = "annotator"
    """The column that says who rated, if there is one."""
    scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and the highest rating; any other stops the run. A Likert scale of 7 points is [1, 7]."""
    standardise: bool = False
    """Divide by each annotator's own spread first: z-scores over all that the annotator rated in this source. One who
    rated everything alike has no spread, and gives no pair."""
    gap: Positive = 1.0
    """Ratings at least this far apart are a preference; on standardised ratings, in standard deviations."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        low, high = self.scale
        if low >= high:
            raise ValueError(f"scale: the lowest rating must be below the highest (got {low:g} and {high:g})")
        weights = self.rating.values() if isinstance(self.rating, dict) else (1.0,)
        if not any(weights):
            raise ValueError("rating: name at least one column with a weight other than 0")
        widest = sum(abs(weight) for weight in weights) * (high - low)
        if not self.standardise and self.gap > widest:
            raise ValueError(f"gap: no two ratings on this scale are {self.gap:g} apart; the most is {widest:g}")
        return self


class Likert(Section):
    """One comparison a row: the lowest point = the first response is much better, the highest = the second is, the
    middle is a tie. P(first is better) falls from 1 to 0 in equal steps.

    A rating that is none of the points stops the run: the file has another scale.
    """

    kind: Literal["likert"] = "likert"
    points: Literal[5, 7] = 5
    """How many points the scale has."""
    scale: Literal["counted", "signed"] = "counted"
    """`counted`: from 1 to `points`. `signed`: around a tie of 0, from -2 to 2 or from -3 to 3 (HelpSteer 2 and 3)."""
    response_a: str = "response_a"
    """The column of the response that the lowest point prefers; exchange both where positive ratings mean the first."""
    response_b: str = "response_b"
    """The column of the response that the highest point prefers."""
    rating: str = "rating"
    """The column of the rating."""


class Thumbs(Section):
    """`prompt`, a response and whether it is liked (TRL's unpaired rows): up beats down on the same prompt."""

    kind: Literal["thumbs"] = "thumbs"
    response: str = "completion"
    """The column of the response."""
    label: str = "label"
    """The column of the thumb: true or 1 is up."""


class Rankings(Section):
    """`prompt` and `responses`, the best first, or with `ranks` beside them (1 = best, ties allowed): all pairs."""

    kind: Literal["rankings"] = "rankings"


class UltraFeedback(Section):
    """The original UltraFeedback: `instruction` and `completions` with scores of 1 to 10, given by GPT-4."""

    kind: Literal["ultrafeedback"] = "ultrafeedback"
    score: Literal["overall", "aspects"] = "overall"
    """`overall`: `overall_score`, where a 10 that the aspects deny is a failure: about 2,600 of them were a 1
    (OpenBMB/UltraFeedback issue 8). `aspects`: the mean of the aspects' ratings, 1 to 5."""
    gap: Positive = 1.0
    """Scores at least this far apart are a preference."""


class Edits(Section):
    """`prompt`, `original`, `edited`: the edited response is the better one, and a demonstration."""

    kind: Literal["edits"] = "edits"


class ArgillaRanking(Section):
    """A ranking question; `Settings.for_ranking` makes this one."""

    kind: Literal["ranking"] = "ranking"
    name: str = "ranking"
    """The question."""
    responses: tuple[str, ...] = Field(default=("response1", "response2"), min_length=2)
    """The fields of the responses, named as the question names its options."""


class ArgillaRating(Section):
    """A rating question about one response; `Settings.for_rating` makes this one."""

    kind: Literal["rating"] = "rating"
    name: str = "rating"
    """The question."""
    response: str = "response"
    """The field of the response."""
    scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and the highest rating; any other stops the run."""
    gap: Positive = 1.0
    """Ratings by one user at least this far apart are a preference."""


class Argilla(Section):
    """Records of Argilla 2: `to_json`, `to_list` (flattened or not), or the server's own with their ranks."""

    kind: Literal["argilla"] = "argilla"
    prompt: str = "instruction"
    """The field of the prompt."""
    question: Annotated[ArgillaRanking | ArgillaRating, Field(discriminator="kind")] = ArgillaRanking()


class LabelStudio(Section):
    """Label Studio's JSON export of a `<Pairwise>` control."""

    kind: Literal["label_studio"] = "label_studio"
    prompt: str = "prompt"
    """The data field of the prompt."""
    left: str = "text1"
    """The data field of the response on the left."""
    right: str = "text2"
    """The data field of the response on the right."""


class Csv(Section):
    """A CSV file: `prompt`, `response_a`, `response_b`, `choice` (a, b or tie; 1, 2 or 0), and optional columns."""

    kind: Literal["csv"] = "csv"


class Judgments(Section):
    """Our own records of what people said: annotations.jsonl, or the human rows of a judgments.jsonl."""

    kind: Literal["judgments"] = "judgments"


Form = Annotated[
    Comparisons
    | Shp
    | Ratings
    | Likert
    | Thumbs
    | Rankings
    | UltraFeedback
    | Edits
    | Argilla
    | LabelStudio
    | Csv
    | Judgments,
    Field(discriminator="kind"),
]


class HumanFile(FileSource):
    """A file of human feedback: JSONL, one JSON array, or CSV, plain or .gz."""

    form: Form = Comparisons()


class HumanHub(HubSource):
    """A data set of human feedback, read through `datasets`."""

    form: Form = Comparisons()


class Annotations(Section):
    """What people answered on `rlaif annotate`'s page, and what they edited there."""

    kind: Literal["annotations"] = "annotations"
    run: str | None = None
    """The folder of the run whose page it was; none = this run."""
    tags: tuple[str, ...] = ()


HumanSource = Annotated[HumanFile | HumanHub | Annotations, Field(discriminator="kind")]
