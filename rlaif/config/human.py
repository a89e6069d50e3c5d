"""Where human feedback comes from and in which form. `feedback/human/` reads each of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Section
from rlaif.config.sources import FileSource, HubSource


class Comparisons(Section):
    """`chosen` and `rejected`: HH-RLHF transcripts, TRL rows (explicit or implicit prompt), our preferences.jsonl."""

    kind: Literal["comparisons"] = "comparisons"


Form = Comparisons


class HumanFile(FileSource):
    """A file of human feedback."""

    form: Form = Comparisons()


class HumanHub(HubSource):
    """A data set of human feedback, read through `datasets`."""

    form: Form = Comparisons()


class Annotations(Section):
    """What people answered on `rlaif annotate`'s page."""

    kind: Literal["annotations"] = "annotations"
    run: str | None = None
    """The folder of the run whose page it was; none = this run."""
    tags: tuple[str, ...] = ()


HumanSource = Annotated[HumanFile | HumanHub | Annotations, Field(discriminator="kind")]
