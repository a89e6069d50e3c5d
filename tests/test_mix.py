"""Which source labels a pair."""

from __future__ import annotations

import pytest

from rlaif.config.feedback import HumanWinsMix, MixedLabels, PreferencesSection, TagMix, WeightedMix
from rlaif.errors import ConfigError
from rlaif.feedback.mix import MixResult, for_the_judge, mix, within_share
from rlaif.formats import HumanFile
from rlaif.records import Judgment, Message, Pair, Prompt, Source

POLICIES = (HumanWinsMix(), WeightedMix(ai=0.5, human=2.0), TagMix(human=("help",), ai=("harm",)))


def judgment(name: str, source: Source, *tags: str) -> Judgment:
    pair = Pair.of(Prompt.of((Message(role="user", content=name),), tags), "yes", "no")
    # Both sources meet in a hybrid run with their own orientation of the same pair.
    return Judgment(pair=pair if source == "ai" else pair.swapped(), source=source, annotator=source, p_a=1.0)


def kept(result: MixResult) -> set[tuple[str, str, float]]:
    return {(item.judgment.pair.prompt[0].content, item.judgment.source, item.weight) for item in result.judgments}


AI = [judgment("both", "ai"), judgment("ai only", "ai")]
HUMAN = [judgment("both", "human"), judgment("human only", "human")]


def test_human_wins_whatever_the_orientation() -> None:
    result = mix(AI, HUMAN, HumanWinsMix())
    assert kept(result) == {("both", "human", 1.0), ("human only", "human", 1.0), ("ai only", "ai", 1.0)}
    assert result.dropped == 1


def test_weighted_keeps_all() -> None:
    result = mix(AI, HUMAN, WeightedMix(ai=0.5, human=2.0))
    assert kept(result) == {
        ("both", "human", 2.0),
        ("human only", "human", 2.0),
        ("both", "ai", 0.5),
        ("ai only", "ai", 0.5),
    }
    assert result.dropped == 0


def test_by_tag_routes_and_counts() -> None:
    tags = {"helpful": ("help",), "harmful": ("harm", "x"), "neither": ("x",), "both tags": ("harm", "help")}
    ai = [judgment(name, "ai", *tag) for name, tag in tags.items()]
    human = [judgment(name, "human", *tag) for name, tag in tags.items()]
    result = mix(ai, human, TagMix(human=("help",), ai=("harm",)))
    assert kept(result) == {
        ("helpful", "human", 1.0),
        ("harmful", "ai", 1.0),
        ("both tags", "human", 1.0),
        ("both tags", "ai", 1.0),
    }
    assert result.dropped == 4


def test_order_of_rows_does_not_matter() -> None:
    for policy in POLICIES:
        assert kept(mix(AI[::-1], HUMAN[::-1], policy)) == kept(mix(AI, HUMAN, policy))


def test_one_source_alone() -> None:
    assert kept(mix([], HUMAN, HumanWinsMix())) == {("both", "human", 1.0), ("human only", "human", 1.0)}
    assert kept(mix(AI, [], HumanWinsMix())) == {("both", "ai", 1.0), ("ai only", "ai", 1.0)}


def test_the_judge_is_asked_only_about_what_its_labels_are_kept_for() -> None:
    pairs = [judgment(tag, "ai", tag).pair for tag in ("harm", "help", "x")]
    by_tag, human_wins = (
        PreferencesSection(labels=MixedLabels(human_data=(HumanFile(path="h.jsonl"),), policy=policy)).judged_tags
        for policy in (TagMix(human=("help",), ai=("harm",)), HumanWinsMix())
    )
    assert for_the_judge(pairs, by_tag) == pairs[:1]
    assert human_wins is PreferencesSection().judged_tags is None and for_the_judge(pairs, None) == pairs
    assert for_the_judge([], by_tag) == []
    with pytest.raises(ConfigError, match="no prompt to label has a tag of harm; the tags there are: help, x"):
        for_the_judge(pairs[1:], by_tag)


def test_a_share_of_human_labels_is_the_same_one_whatever_else_is_labelled() -> None:
    labels = [judgment(f"prompt {i}", "human") for i in range(400)]
    kept = within_share(labels, 0.2)
    assert 55 <= len(kept) <= 105 and within_share(labels, 1.0) == labels
    assert within_share(labels[::-1], 0.2) == kept[::-1]
    assert within_share(kept, 0.2) == kept and set(map(id, within_share(labels, 0.1))) <= set(map(id, kept))
