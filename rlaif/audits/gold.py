"""Human labels to measure a judge by, in any form, as one label per pair.

Nothing is judged here. Next: `audit.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlaif.config.sources import FileSource
from rlaif.errors import DataError
from rlaif.feedback.demonstrations import against
from rlaif.feedback.human import read_source, source_files, source_of
from rlaif.feedback.prompts import read_demonstrations
from rlaif.formats import HumanHub, LabelSource
from rlaif.formats.sheet import HumanData
from rlaif.jsonl import dumps, read_jsonl
from rlaif.records import Failure, Judgment, Response, content_id, oriented
from rlaif.run_folder import Run

NO_RUN = Run(Path("."))
"""Sources on the command line name their runs."""


class GoldFile(NamedTuple):
    """One file, as the audit records it. `pairs` counts the pairs that are used, `rows` all rows."""

    name: str
    sha256: str
    rows: int
    unusable: int
    pairs: int


class GoldLabels(NamedTuple):
    """One human judgment per pair, in the order in which the pairs first appear."""

    judgments: tuple[Judgment, ...]
    failures: tuple[Failure, ...]
    """Rows that hold no pair of human preference; `id` is file:line."""
    files: tuple[GoldFile, ...]
    file_of: dict[str, str]
    """By pair id: the name of the first file that has the pair."""
    repeated: int
    """Rows about a pair that an earlier row had labelled."""
    contradicted: int
    """Pairs that were labelled both ways: their p is the mean."""

    @property
    def left_out(self) -> int:
        """Usable pairs that the limit left out."""
        return len(self.file_of) - len(self.judgments)

    def without(self, pair_ids: Set[str]) -> GoldLabels:
        """The same files without these pairs."""
        judgments = tuple(judgment for judgment in self.judgments if judgment.pair.id not in pair_ids)
        return self._replace(
            judgments=judgments,
            files=_counted(self.files, self.file_of, [judgment.pair.id for judgment in judgments]),
            file_of={pair_id: name for pair_id, name in self.file_of.items() if pair_id not in pair_ids},
        )


def read_gold(given: Sequence[Path | str], limit: int | None = None) -> GoldLabels:
    """All human labels of these files or sources (`source_of`), or the `limit` pairs with the smallest hashes.

    A pair labelled several times has the mean p. No system turn is added: people saw these conversations as they are.
    A row whose conversation is no pair, and one labelled by a judge, is a failure with its place; a row of no known
    shape stops with a DataError, as does a source without a single usable pair.
    """
    if not given:
        raise DataError("gold: name at least one file of human labels")
    labels: dict[str, list[Judgment]] = {}
    failures: list[Failure] = []
    file_of: dict[str, str] = {}
    files: list[GoldFile] = []
    repeated = 0
    sources = [source_of(one) for one in given]
    for source, name in zip(sources, source_names(sources), strict=True):
        data = HumanData.empty()
        read_source(source, NO_RUN, None, data, "gold")
        for judgment in data.judgments:
            repeated += judgment.pair.id in labels
            labels.setdefault(judgment.pair.id, []).append(judgment)
            file_of.setdefault(judgment.pair.id, name)
        if not data.judgments:
            first = f"; first: {data.failures[0].id}: {data.failures[0].reason}" if data.failures else ""
            rows = data.counts["rows"]
            raise DataError(f"{place_of(source)}: not one usable pair with a human label in {rows} rows{first}")
        failures += data.failures
        sha256 = sha256_of(source, map(dumps, data.judgments))
        files.append(GoldFile(name, sha256, data.counts["rows"], len(data.failures), pairs=0))
    chosen = list(labels)
    if limit is not None:
        kept = set(sorted(chosen, key=lambda pair_id: content_id("gold", pair_id))[:limit])
        chosen = [pair_id for pair_id in chosen if pair_id in kept]
    return GoldLabels(
        judgments=tuple(_merged(labels[pair_id]) for pair_id in chosen),
        failures=tuple(failures),
        files=_counted(files, file_of, chosen),
        file_of=file_of,
        repeated=repeated,
        contradicted=sum(min(ps) < 0.5 < max(ps) for ps in ([j.p_a for j in some] for some in labels.values())),
    )


def read_demonstrated(file: Path, samples: Path, system: str | None) -> GoldLabels:
    """A label for each demonstration of a file (`prompt`, `completion`), which is preferred to a sample of the policy
    to the same prompt: of several the one with the smallest hash. DataError where none has samples."""
    rows, failures = read_demonstrations(FileSource(path=str(file)), system)
    shown, _ = against(rows, read_jsonl(samples, Response), str(file))
    labels = {}
    for one in shown:
        sample = min(one.samples, key=lambda text: content_id("demonstrated", one.prompt.id, text))
        pair = oriented(one.prompt, one.text, sample)
        labels[pair.id] = Judgment(pair=pair, source="human", annotator="demonstration", p_a=float(pair.a == one.text))
    source = GoldFile(
        file.name, hashlib.sha256(file.read_bytes()).hexdigest(), len(rows) + len(failures), len(failures), len(labels)
    )
    return GoldLabels(tuple(labels.values()), tuple(failures), (source,), dict.fromkeys(labels, file.name), 0, 0)


def place_of(source: LabelSource) -> Path:
    """Where the source lies; of a data set of the hub its name."""
    return Path(source.dataset) if isinstance(source, HumanHub) else source_files(source, NO_RUN)[0]


def source_names(sources: Sequence[LabelSource]) -> list[str]:
    """The files' names, with the folder where two have the same: a path tells where, a name what."""
    places = [place_of(source) for source in sources]
    names = [place.name for place in places]
    return [f"{p.parent.name}/{p.name}" if names.count(p.name) > 1 else p.name for p in places]


def sha256_of(source: LabelSource, read: Iterable[str]) -> str:
    """The hash of the source's file; of a data set of the hub, of the labels that were `read`."""
    if isinstance(source, HumanHub):
        return hashlib.sha256("\n".join(read).encode()).hexdigest()
    return hashlib.sha256(place_of(source).read_bytes()).hexdigest()


def _counted(files: Sequence[GoldFile], file_of: Mapping[str, str], pair_ids: Iterable[str]) -> tuple[GoldFile, ...]:
    used = Counter(file_of[pair_id] for pair_id in pair_ids)
    return tuple(file._replace(pairs=used[file.name]) for file in files)


def _merged(labels: Sequence[Judgment]) -> Judgment:
    """One judgment of all labels of a pair (all oriented alike): the mean p, and every tag."""
    tags = tuple(dict.fromkeys(tag for label in labels for tag in label.pair.tags))
    return Judgment(
        pair=labels[0].pair.model_copy(update={"tags": tags}),
        source="human",
        annotator=" ".join(dict.fromkeys(label.annotator for label in labels)),
        p_a=fmean(label.p_a for label in labels),
    )
