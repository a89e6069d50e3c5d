"""What a diff says of each kind of change, which version number it calls for, and that order means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.constitution import Constitution, Principle, load_constitution
from rlaif.constitution.diff import FIELDS, LEVELS, diff, word_diff
from rlaif.resources import available

HEAD = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.2.3", "title": "T"}
CALM = {
    "id": "calm",
    "compare": "Which response is calmer towards an angry user?",
    "critique": "Point out heat.",
    "question": "Is the response heated?",
    "desired": "no",
}
EXAMPLE = {"prompt": "p", "response": "r", "critique": "c", "revision": "v"}
BRIEF = {"id": "brief", "check": {"kind": "max_words", "limit": 60}}
BOTH = {"for": "Be calm.", "against": "Be heated."}


def of(*principles, **head):
    return Constitution.model_validate(HEAD | head | {"principles": principles})


OLD = of(CALM, BRIEF)


@pytest.mark.parametrize(
    ("new", "level", "sentence"),
    [
        (of(CALM), "major", "principle brief removed: labels no longer reward it (check max_words(limit=60))"),
        (of(CALM | {"veto": True}, BRIEF), "major", "calm: veto given: where it speaks, nothing else counts"),
        (of(CALM | {"desired": "yes"}, BRIEF), "major", 'calm: desired reply flipped from "no" to "yes"'),
        (
            of(CALM | {"compare": "Which response is calmer towards a rude user?"}, BRIEF),
            "major",
            "calm: compare reworded: Which response is calmer towards [-an angry-] {+a rude+} user?",
        ),
        (
            of(CALM | {"question": "Does it shout?"}, BRIEF),
            "major",
            'calm: question reworded: "Is the response heated?" -> "Does it shout?"',
        ),
        (
            of(CALM, BRIEF | {"check": {"kind": "max_words", "limit": 40}}),
            "major",
            "brief: check max_words: limit 60 -> 40",
        ),
        (of(CALM, BRIEF | {"check": {"kind": "no_list"}}), "major", "brief: check max_words(limit=60) -> no_list()"),
        (of(CALM | {"check": {"kind": "no_list"}}, BRIEF), "major", "calm: check no_list() added"),
        (of(CALM, BRIEF | {"compare": "Which?"}), "major", "brief: compare added: Which?"),
        (
            of({k: v for k, v in CALM.items() if k not in ("question", "desired")}, BRIEF),
            "major",
            "calm: question removed: Is the response heated?",
        ),
        (of(CALM, BRIEF, preamble="You judge."), "major", "preamble added: You judge."),
        (of(CALM, BRIEF, id="d"), "major", "id c -> d: this is another constitution"),
        (
            of(CALM, BRIEF, {"id": "kind", "compare": "Which response is kinder?"}),
            "minor",
            "principle kind added: Which response is kinder?",
        ),
        (of(CALM | {"id": "cool"}, BRIEF), "minor", "principle calm renamed to cool: it says the same"),
        (of(CALM | {"weight": 2}, BRIEF), "minor", "calm: weight 1 -> 2 (counts more)"),
        (of(CALM | {"weight": 0.5}, BRIEF), "minor", "calm: weight 1 -> 0.5 (counts less)"),
        (of(CALM | {"priority": 2}, BRIEF), "minor", "calm: priority 1 -> 2 (decided later in lexicographic order)"),
        (of(CALM | {"tags": ["heat"]}, BRIEF), "minor", "calm: tags none -> heat (now applies to prompts tagged heat)"),
        (
            of(CALM, BRIEF | {"question": "Is it short?", "desired": "yes"}),
            "minor",
            "brief: question added: Is it short?",
        ),
        (of(CALM | {"revise": "Again."}, BRIEF), "patch", "calm: revise added: Again."),
        (
            of({k: v for k, v in CALM.items() if k != "critique"}, BRIEF),
            "patch",
            "calm: critique removed: Point out heat.",
        ),
        (of(CALM, BRIEF, title="U"), "patch", 'title reworded: "T" -> "U"'),
        (
            of(CALM | {"compare": "Which response\nis calmer towards an angry user?"}, BRIEF),
            "patch",
            "calm: compare: only spaces or line breaks changed",
        ),
        (of(CALM, BRIEF, examples=[EXAMPLE]), "patch", "examples: 1 added, 0 removed"),
        (of(BRIEF, CALM), "none", "the principles stand in another order, which changes no label"),
    ],
)
def test_each_change_has_its_sentence_and_level(new, level, sentence):
    found = diff(OLD, new)
    assert [(change.level, change.sentence) for change in found.changes] == [(level, sentence)]
    assert found.advice == level


@pytest.mark.parametrize(
    ("before", "after", "level", "sentence"),
    [
        (None, BOTH, "minor", 'contrast added: "Be calm." against "Be heated."'),
        (None, {"for": "Be calm."}, "minor", 'contrast added: "Be calm." against the model as it is'),
        (BOTH, None, "major", 'contrast removed: "Be calm." against "Be heated."'),
        (BOTH, BOTH | {"for": "Be cool."}, "major", "contrast.for reworded: Be [-calm.-] {+cool.+}"),
        (BOTH, BOTH | {"against": "Be hot."}, "major", "contrast.against reworded: Be [-heated.-] {+hot.+}"),
        (BOTH, {"for": "Be calm."}, "major", "contrast.against removed: Be heated."),
        ({"for": "Be calm."}, BOTH, "major", "contrast.against added: Be heated."),
        (BOTH, BOTH | {"for": "Be\ncalm."}, "patch", "contrast.for: only spaces or line breaks changed"),
    ],
)
def test_each_change_of_a_contrast_has_its_sentence_and_level(before, after, level, sentence):
    old, new = (of(CALM | ({"contrast": texts} if texts else {}), BRIEF) for texts in (before, after))
    (change,) = diff(old, new).changes
    assert change == (level, f"calm: {sentence}")


def test_both_sides_turned_round_are_two_changes():
    turned = {"for": BOTH["against"], "against": BOTH["for"]}
    changes = diff(of(CALM | {"contrast": BOTH}), of(CALM | {"contrast": turned})).changes
    assert [change.sentence for change in changes] == [
        "calm: contrast.for reworded: Be [-calm.-] {+heated.+}",
        "calm: contrast.against reworded: Be [-heated.-] {+calm.+}",
    ]


def test_a_principle_by_contrast_alone_is_named_by_it():
    alone = {"id": "calm", "contrast": BOTH}
    (added,) = diff(of(BRIEF), of(BRIEF, alone)).changes
    assert added.sentence == 'principle calm added: "Be calm." against "Be heated."'
    (gained,) = diff(of(BRIEF, alone), of(BRIEF, alone | {"compare": "Which response is calm?"})).changes
    assert (gained.level, gained.sentence) == ("minor", "calm: compare added: Which response is calm?")
    (renamed,) = diff(of(BRIEF, alone), of(BRIEF, alone | {"id": "cool"})).changes
    assert renamed.sentence == "principle calm renamed to cool: it says the same"
    other = alone | {"id": "cool", "contrast": {"for": "Be cool."}}
    assert [c.level for c in diff(of(BRIEF, alone), of(BRIEF, other)).changes] == ["minor", "major"]


def test_the_same_content_is_no_change():
    found = diff(OLD, OLD)
    assert (found.changes, found.advice, found.follows) == ((), "none", True)
    assert found.text() == "version is still 1.2.3, and nothing changed"
    tagged = [of(CALM | {"tags": tags}) for tags in (["a", "b"], ["b", "a"])]
    assert diff(*tagged).changes == ()


def test_a_renamed_principle_that_also_changed_says_both():
    found = diff(OLD, of(CALM | {"id": "cool", "weight": 3}, BRIEF))
    assert [c.sentence for c in found.changes] == [
        "principle calm renamed to cool: it says the same",
        "cool: weight 1 -> 3 (counts more)",
    ]


def test_the_gravest_change_decides():
    found = diff(OLD, of(CALM | {"weight": 2, "revise": "r"}, title="U"))
    assert {change.level for change in found.changes} == {"patch", "minor", "major"}
    assert found.advice == "major"
    assert found.text().split("\n")[0] == 'patch  title reworded: "T" -> "U"'


@pytest.mark.parametrize(
    ("version", "changed", "sentence", "follows"),
    [
        ("1.2.4", {"weight": 2}, "version went 1.2.3 -> 1.2.4, but these changes call for 1.3.0 (minor)", False),
        ("1.3.0", {"weight": 2}, "version went 1.2.3 -> 1.3.0, as these changes call for (minor)", True),
        (
            "2.0.0",
            {"weight": 2},
            "version went 1.2.3 -> 2.0.0, more than these changes call for: 1.3.0 (minor) would do",
            True,
        ),
        ("1.3.0", {"veto": True}, "version went 1.2.3 -> 1.3.0, but these changes call for 2.0.0 (major)", False),
        ("2.0.0", {"veto": True}, "version went 1.2.3 -> 2.0.0, as these changes call for (major)", True),
        ("1.2.3", {"revise": "r"}, "version is still 1.2.3, but these changes call for 1.2.4 (patch)", False),
        ("1.2.4", {"revise": "r"}, "version went 1.2.3 -> 1.2.4, as these changes call for (patch)", True),
        (
            "1.1.9",
            {"revise": "r"},
            "version went 1.2.3 -> 1.1.9, which is backwards; these changes call for 1.2.4",
            False,
        ),
        ("1.2.4", {}, "version went 1.2.3 -> 1.2.4, though nothing changed", True),
        (
            "soon",
            {"veto": True},
            "version 'soon' is not MAJOR.MINOR.PATCH, so it cannot follow the changes (major)",
            False,
        ),
    ],
)
def test_the_version_is_held_against_the_changes(version, changed, sentence, follows):
    found = diff(OLD, of(CALM | changed, BRIEF, version=version))
    assert (found.sentence, found.follows) == (sentence, follows)


@pytest.mark.parametrize(
    ("before", "after", "sentence", "follows"),
    [
        ("2.0.0-rc.1", "2.0.0", "as these changes call for (major)", True),
        ("2.0.0-rc.1", "2.0.0-rc.2", "as these changes call for (major)", True),
        ("2.0.0-rc.1", "2.0.0-rc.1", "still 2.0.0-rc.1, but these changes call for 3.0.0", False),
        ("2.0.0", "2.0.0-rc.1", "which is backwards; these changes call for 3.0.0", False),
        ("2.0.0+build-1", "2.0.0+build-2", "but these changes call for 3.0.0", False),
    ],
)
def test_until_its_release_a_pre_release_may_change(before, after, sentence, follows):
    old, new = of(CALM, version=before), of(CALM | {"compare": "Other words?"}, version=after)
    found = diff(old, new)
    assert sentence in found.sentence and found.follows is follows


def test_below_one_the_middle_number_says_major():
    old = of(CALM, BRIEF, version="0.4.1")
    assert diff(old, of(CALM, version="0.5.0")).follows
    assert not diff(old, of(CALM, version="0.4.2")).follows


def test_every_field_has_a_level():
    """A field that the schema gains must be given its place in the rule."""
    fields = {*Principle.model_fields, *Constitution.model_fields}
    assert fields - {"schema_", "version", "principles"} == set(FIELDS)


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(available("constitutions"))))
def test_order_calls_for_no_version(random, name):
    old = load_constitution(name)
    shuffled = list(old.principles)
    random.shuffle(shuffled)
    found = diff(old, old.model_copy(update={"principles": tuple(shuffled)}))
    assert found.advice == "none" and found.follows
    assert len(found.changes) == (tuple(shuffled) != old.principles)


@given(st.sets(st.sampled_from(range(3))), st.sets(st.sampled_from(range(3))))
def test_the_way_back_is_as_grave_where_both_change_texts(one, other):
    """Removing is graver than adding; all else weighs the same in both directions."""
    texts = [CALM | {"id": f"p{i}", "compare": f"Which response is {i}?"} for i in range(3)]
    old, new = (of(BRIEF, *(texts[i] for i in sorted(chosen))) for chosen in (one, other))
    there, back = diff(old, new), diff(new, old)
    assert len(there.changes) == len(back.changes) == len(one ^ other)
    assert (there.advice == "major") == bool(one - other)
    assert LEVELS.index(back.advice) == (3 if other - one else 2 if one - other else 0)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_a_word_diff_holds_both_texts(before, after):
    shown = word_diff(" ".join(before), " ".join(after))
    if '" -> "' in shown:
        return
    words = shown.replace("[-", "[- ").replace("-]", " -]").replace("{+", "{+ ").replace("+}", " +}").split()
    was, now, side = [], [], "both"
    for word in words:
        if word in {"[-", "{+"}:
            side = "was" if word == "[-" else "now"
        elif word in {"-]", "+}"}:
            side = "both"
        else:
            was += [word] if side != "now" else []
            now += [word] if side != "was" else []
    assert (was, now) == (before, after)
