"""Training prompts spread over what they are about: clusters of their embeddings, with quotas per cluster and tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlaif.config.filters import Coverage
from rlaif.feedback.screening.rules import asked
from rlaif.records import Messages, Prompt, content_id, grouped
from rlaif.signals.embedding import embed


def clusters_of(conversations: Sequence[Messages], clusters: int, seed: int = 0) -> list[int]:
    """Each conversation's cluster, by k-means over the embeddings of the user's turns; as many clusters as there are
    conversations where these are fewer. Clusters are numbered from the largest."""
    from sklearn.cluster import KMeans  # noqa: PLC0415 (slow to import)

    texts = [asked(messages) for messages in conversations]
    most = min(clusters, len(set(texts)))
    if most < 2:
        return [0] * len(texts)
    found = KMeans(most, n_init=10, random_state=seed % 2**32).fit_predict(embed(texts)).tolist()
    order = [label for label, _ in Counter(found).most_common()]
    return [order.index(label) for label in found]


def within_quotas(
    prompts: Sequence[Prompt], clusters: Sequence[int], section: Coverage
) -> tuple[list[str], dict[str, str]]:
    """The ids of prompts within all quotas, from each cluster in turn, so that any first part of them is spread; and
    why the others are not. In a cluster the order is by hash."""
    by_hash = sorted(zip(prompts, clusters, strict=True), key=lambda one: content_id("coverage", one[0].id))
    queues = grouped(by_hash, lambda one: one[1])
    taken: list[str] = []
    refused: dict[str, str] = {}
    tags: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    while any(queues.values()):
        for cluster in sorted(queues):
            while queues[cluster]:
                prompt, _ = queues[cluster].pop(0)
                quotas = {tag: section.tags.get(tag, section.per_tag) for tag in prompt.tags}
                full = [tag for tag, quota in quotas.items() if quota is not None and tags[tag] >= quota]
                if section.per_cluster is not None and counts[cluster] >= section.per_cluster:
                    refused[prompt.id] = "the quota of its cluster is full"
                elif full:
                    refused[prompt.id] = f"the quota of the tag {full[0]!r} is full"
                else:
                    taken.append(prompt.id)
                    counts[cluster] += 1
                    tags.update(prompt.tags)
                    break
    return taken, refused
