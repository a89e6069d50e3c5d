"""Constitutions: what loads, what each mistake says and where, what the lint warns of."""

import json
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlaif.constitution import Constitution, Principle, lint, load_constitution
from rlaif.constitution.wording import similarity
from rlaif.errors import ConfigError
from rlaif.patterns import Undecided
from rlaif.records import Message, Prompt, content_id
from rlaif.resources import available

HEAD = "schema: rlaif/constitution/v1\nid: t\nversion: '1'\ntitle: T\nprinciples:\n"
TEXTS = {"critique": "c", "revise": "r", "question": "Does it?", "desired": "yes"}


@pytest.fixture
def complaints(tmp_path):
    """The lines of the ConfigError for a file with this text, without the file's name."""

    def load(text):
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as error:
            load_constitution(str(path))
        lines = str(error.value).split("\n")
        assert all(line.startswith(f"{path}:") for line in lines)
        return [line.removeprefix(f"{path}:") for line in lines]

    return load


def load_text(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_constitution(str(path))


@pytest.mark.parametrize("name", available("constitutions"))
def test_shipped_constitutions_are_whole_and_lint_clean(name):
    constitution = load_constitution(name)
    assert constitution.id == name
    assert lint(constitution) == []
    for principle in constitution.principles:
        if principle.judged:
            assert principle.compare.endswith("?") and "response" in principle.compare and principle.contrast
            assert principle.critique and principle.revise
            assert principle.question.endswith("?") and principle.desired in ("yes", "no")
        else:
            assert principle.check is not None or principle.reference is not None


def test_shipped_sizes():
    judged = {n: [p for p in load_constitution(n).principles if p.judged] for n in available("constitutions")}
    assert len(judged["harmlessness"]) >= 14
    assert len(judged["helpfulness"]) >= 8
    assert [p.id for p in judged["plain-and-brief"]] == ["plain-words"]


def test_plain_and_brief_is_verifiable_by_eye():
    checked = [p for p in load_constitution("plain-and-brief").principles if p.check]
    assert [p.id for p in checked if not p.passes("Boil the egg for ten minutes.")] == []
    assert [p.id for p in checked if not p.passes("- boil it\n" * 30)] == [p.id for p in checked]


def test_a_principle_may_be_judged_and_checked(tmp_path):
    text = HEAD + "- {id: a, compare: Which response is short, check: {kind: max_words, limit: 2}}\n"
    (principle,) = load_text(tmp_path, text).principles
    assert principle.judged and principle.passes("two words") and not principle.passes("now three words")
    assert (principle.weight, principle.priority, principle.veto, principle.tags) == (1.0, 1, False, ())


def test_passes_needs_a_check():
    with pytest.raises(ValueError, match="neither check nor classifier"):
        Principle(id="a", compare="Which response?").passes("text")


SIGNAL = "- {id: a, classifier: {kind: repetition, n: 2, at_most: 0.5}}\n"


def test_a_classifier_decides_by_its_limits(tmp_path):
    (principle,) = load_text(tmp_path, HEAD + SIGNAL).principles
    assert principle.coded and not principle.judged
    assert principle.passes("all of it is new") and not principle.passes("so so so so so")
    with pytest.raises(Undecided, match=r"repetition on '\?': nothing to measure"):
        principle.passes("?")
    near = "- {id: a, classifier: {kind: similarity, at_least: 0.9}}\n"
    prompts = [Prompt.of((Message(role="user", content=text),)) for text in ("Why?", "Where is it?")]
    rates = load_text(tmp_path, HEAD + near).pass_rates(["Why?", "Why?"], prompts)
    assert rates == {"pass/a": 0.5, "pass/all": 0.5}


def test_a_classifier_came_later_and_changes_no_other_hash(tmp_path):
    plain = load_text(tmp_path, HEAD + "- {id: a, compare: Which response}\n")
    whole = plain.model_dump(mode="json", by_alias=True)
    assert whole.keys().isdisjoint({"examples", "profile"})
    assert whole["principles"][0].keys().isdisjoint({"contrast", "classifier", "reference"})
    assert plain.hash == content_id(whole) == "07a2e3c8a4eb7290"
    hashes = {load_text(tmp_path, HEAD + SIGNAL.replace("0.5", limit)).hash for limit in ("0.5", "0.6", "0.50")}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("{kind: repetition}", "`classifier` says neither `at_least` nor `at_most`"),
        ("{kind: repetitions, at_most: 1}", "no kind 'repetitions'; did you mean 'repetition'"),
        ("{kind: repetition, at_most: 1, limit: 2}", "a.classifier.limit: no such key"),
        ("{kind: keywords, at_most: 1}", "a.classifier.words: required, but missing"),
        ("{kind: repetition, at_most: true}", "a.classifier.at_most: "),
        ("{kind: repetition, at_most: 1}, check: {kind: no_list}", "make two principles"),
    ],
)
def test_a_bad_classifier_is_one_clear_line(keys, said, complaints):
    (line,) = complaints(HEAD + f"- {{id: a, classifier: {keys}}}\n")
    assert said in line and line.startswith("6: principles.a")


def test_a_library_that_is_missing_is_missed_when_the_file_is_read(complaints, monkeypatch):
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    (line,) = complaints(HEAD + "- {id: a, classifier: {kind: offence, at_most: 0.5}}\n")
    assert line == (
        '6: principles.a.classifier: offence: needs profanity_check; install it with: pip install "rlaif[signals]"'
    )


def test_hash_is_of_the_content(tmp_path):
    one = load_text(tmp_path, HEAD + "- {id: a, compare: Which response}\n")
    laid_out = load_text(tmp_path, HEAD + "# why\n- id: a\n  weight: 1\n  compare: >-\n    Which\n    response\n")
    other = load_text(tmp_path, HEAD + "- {id: a, compare: Which response, weight: 2}\n")
    assert one.hash == laid_out.hash != other.hash
    assert len(one.hash) == 16 and int(one.hash, 16) >= 0


def test_for_tags(tmp_path):
    text = HEAD + "- {id: a, compare: A, tags: [x, y]}\n- {id: b, compare: B}\n- {id: c, compare: C, tags: [z]}\n"
    constitution = load_text(tmp_path, text)
    assert [p.id for p in constitution.for_tags(("y", "q"))] == ["a", "b"]
    assert [p.id for p in constitution.for_tags(())] == ["b"]


@pytest.mark.parametrize(
    ("principles", "expected"),
    [
        (
            "- {id: a, compar: x, check: {kind: no_list}}",
            "6: principles.a.compar: no such key; did you mean 'compare'?",
        ),
        (
            "- id: a\n  compare: x\n  weight: 0",
            "8: principles.a.weight: Input should be greater than or equal to 0.000001 (got 0)",
        ),
        (
            "- id: a\n  compare: x\n  weight: 5.0e-324",
            "8: principles.a.weight: Input should be greater than or equal to 0.000001 (got 5e-324)",
        ),
        (
            "- id: a\n  compare: x\n  weight: 1.0e+308",
            "8: principles.a.weight: Input should be less than or equal to 1000000 (got 1e+308)",
        ),
        ("- id: a\n  compare: x\n  weight: .nan", "8: principles.a.weight: Input should be a finite number (got nan)"),
        ("- id: a\n  compare: x\n  weight: .inf", "8: principles.a.weight: Input should be a finite number (got inf)"),
        ("- id: a\n  compare: ' '", "7: principles.a.compare: is empty (got ' ')"),
        (
            "- id: a\n  compare:\n  check: {kind: no_list}",
            "7: principles.a.compare: is empty; write a value or leave the key out",
        ),
        ("- id: a\n  compare: x\n  compare: y", "8: key 'compare' appears twice; the first is in line 7"),
        (
            "- {id: a, compare: x}\n- {id: b, compare: x}\n- {id: a, compare: x}",
            "8: principles.a.id: 'a' is used twice",
        ),
        (
            "- id: a\n  check: {kind: max_word, limit: 3}",
            "7: principles.a.check: no kind 'max_word'; did you mean 'max_words'?",
        ),
        (
            "- id: a\n  check:\n    kind: max_words\n    limit: 3\n    limt: 4",
            "10: principles.a.check.limt: no such key; did you mean 'limit'?",
        ),
        ("- id: a\n  check:\n    kind: max_words", "7: principles.a.check.limit: required, but missing"),
        (
            "- id: a\n  compare: x\n  question: y\n  desired: no",
            "9: no can be read in two ways; write true or false, or quote the word",
        ),
        (
            "- id: a\n  compare: x\n  question: y\n  desired: maybe",
            "9: principles.a.desired: Input should be 'yes' or 'no' (got 'maybe')",
        ),
        ("- {id: a, compare: x, question: y}", "6: principles.a: `question` and `desired` go together"),
        (
            "- {id: a, revise: x}",
            "6: principles.a: has neither `compare`, `contrast`, `check`, `classifier` nor `reference`, so nothing "
            "decides it",
        ),
        ("- {compare: x}", "6: principles.0.id: required, but missing"),
        ("- just text", "6: principles.0: must be a mapping, like {key: value} (got 'just text')"),
        ("- {id: a, compare: x, tags: harmful}", "6: principles.a.tags: must be a list, like [this] (got 'harmful')"),
        ("- {id: a, compare: x, veto: 'yes'}", "6: principles.a.veto: must be true or false (got 'yes')"),
        ("- {id: a, compare: x, priority: 1.5}", "6: principles.a.priority: must be a whole number (got 1.5)"),
        ("- {id: a b, compare: x}", "6: principles.0.id: use letters, digits, - and _ only (got 'a b')"),
        ("  []", "5: principles: is empty (got [])"),
    ],
)
def test_each_mistake_is_one_clear_line(complaints, principles, expected):
    assert complaints(HEAD + principles + "\n") == [expected]


def test_a_bad_pattern_says_why(complaints):
    (line,) = complaints(HEAD + "- id: a\n  check: {kind: regex_absent, pattern: '('}\n")
    assert line == (
        "7: principles.a.check.pattern: not a regular expression: missing ), unterminated subpattern at position 0 "
        "(got '(')"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD.replace("schema: rlaif/constitution/v1\n", ""),
            " schema: required, but missing; write `schema: rlaif/constitution/v1`",
        ),
        (HEAD.replace("v1", "v9"), "1: schema: Input should be 'rlaif/constitution/v1' (got 'rlaif/constitution/v9')"),
        (HEAD.replace("'1'", "1.0"), "3: version: must be text; put it in quotes to make it text (got 1.0)"),
        (
            HEAD.replace("'1'", "{one: two}"),
            "3: version: must be text; put it in quotes to make it text (got {'one': 'two'})",
        ),
        (HEAD.replace("title", "titel"), "4: titel: no such key; did you mean 'title'?"),
    ],
)
def test_mistakes_in_the_head(complaints, text, expected):
    assert expected in complaints(text + "- {id: a, compare: x}\n")


def test_all_mistakes_are_reported_in_order(complaints):
    lines = complaints(HEAD + "- {id: a, wieght: 2, compare: x}\n- {id: a, compare: x, weight: -1}\n- {id: c}\n")
    assert [line.split(":")[0] for line in lines] == ["6", "7", "7", "8"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", "", "a constitution is a mapping that begins with `schema: rlaif/constitution/v1` (got NoneType)"),
        ("- a\n- b\n", "", "a constitution is a mapping"),
        ("just text", "", "a constitution is a mapping"),
        ("a: [1\nb: 2\n", "2", "not valid YAML"),
        ("a: 1\nb: so: it goes\n", "2", "needs quotes"),
        ("a: b\n\tc: d\n", "2", "not valid YAML"),
        ("a: 1\n--- \nb: 2\n", "2", "not valid YAML"),
        ("id: x\ntitle: !!python/object/apply:os.system [ls]\n", "2", "not allowed"),
        ("a: &x [*x]\n", "1", "stands for nothing that ends before it"),
        ("id: x\ntitle: 2024-01-01\n", "2", "if it is text, write it in quotes"),
        ("a: 1\nb: \x00\n", "2", "not valid YAML"),
        (b"a: 1\nb: \xff\n", "2", "not UTF-8"),
        ("[" * 5000, "1", "nested too deeply"),
        ("a: 0b_\n", "1", "can be read in two ways"),
        ("a: !!bool maybe\n", "1", "cannot be read"),
    ],
)
def test_broken_files_are_one_line(complaints, text, line, words):
    (complaint,) = complaints(text)
    assert complaint.startswith(f"{line}: " if line else " ") and words in complaint


def test_an_alias_bomb_is_one_line(complaints):
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop"))
    (complaint,) = complaints(bomb)
    assert "aliases stand for more than 10,000 values" in complaint


def test_an_alias_is_a_copy(tmp_path):
    text = HEAD + "- {id: a, compare: &x 'Which response is short?'}\n- {id: b, compare: *x}\n"
    assert len({p.compare for p in load_text(tmp_path, text).principles}) == 1


@pytest.mark.parametrize("number", ["017", "1:30", "-0_7", "0x1f", "0b11", "!!int '017'"])
def test_no_number_of_another_base_passes_for_a_plain_one(complaints, number):
    """What YAML 1.1 reads as 15, 90, -7 and 15."""
    (complaint,) = complaints(HEAD + f"- id: a\n  check: {{kind: max_words, limit: {number}}}\n")
    assert complaint.startswith("7: ") and "can be read in two ways; write a plain number, or quote it" in complaint


def test_all_that_yaml_reads_otherwise_is_told_at_once(complaints):
    lines = complaints(HEAD + "- id: a\n  veto: yes\n  veto: off\n  weight: 0_7\n  tags: [2024-01-01]\n")
    assert [line.split(":")[0] for line in lines] == ["7", "8", "8", "9", "10"]


@pytest.mark.parametrize("key", ["check", "contrast", "examples", "principles", "max_words", "pattern"])
@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("KEY: 1\n", {"principles", "examples"}),
        ("principles:\n- {id: a, KEY: 1}\n", {"check", "contrast"}),
        ("principles:\n- {id: a, contrast: {KEY: 1}}\n", set()),
        ("principles:\n- {id: a, check: {kind: max_words, limit: 3, KEY: 1}}\n", set()),
    ],
)
def test_an_unknown_key_may_be_called_what_another_part_is(complaints, place, known, key):
    found = complaints(HEAD[: HEAD.index("principles")] + place.replace("KEY", key))
    assert any(f"{key}: no such key" in line for line in found) is (key not in known)


KEYS = ["id", "compare", "contrast", "for", "against", "check", "kind", "limit", "principles"]
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(junk)
def test_no_content_gives_a_traceback(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("junk") / "c.yaml"
    path.write_text(HEAD + "- " + json.dumps(value) + "\n", encoding="utf-8")
    try:
        load_constitution(str(path))
    except ConfigError as error:
        assert all(line.startswith(f"{path}:") for line in str(error).split("\n"))


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%@`#, \n\t0.<=~_", max_size=40))
def test_no_text_gives_a_traceback(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("junk") / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_constitution(str(path))


def test_repeated_ids_are_refused_without_a_file_too():
    head = yaml.safe_load(HEAD)
    principle = {"id": "a", "compare": "Which response?"}
    with pytest.raises(ValueError, match="used twice"):
        Constitution.model_validate({**head, "principles": [principle, principle]})


def constitution_of(*principles):
    rows = [{"id": f"p{i}", **TEXTS, **row} for i, row in enumerate(principles)]
    return Constitution.model_validate({**yaml.safe_load(HEAD), "version": "1.0.0", "principles": rows})


HELPS = {"compare": "Which response helps the user to do more of the task?"}


@pytest.mark.parametrize(
    ("principle", "word"),
    [
        ({"compare": "Which response is better?"}, "vague"),
        ({"compare": "Which response is more appropriate for a child?"}, "vague"),
        ({"compare": "Which response is shorter and more polite?"}, "two things"),
        ({"compare": "Which response is honest and polite?"}, "two things"),
        ({"compare": "Which response answers first and explains afterwards?"}, "two things"),
        (
            {"compare": "Which response is short?", "question": "Is the response short and clear?", "desired": "yes"},
            "two",
        ),
        ({"compare": "Which response is shorter?", "critique": None}, "no critique text"),
        ({"compare": "Which response is shorter?", "critique": None, "revise": None}, "no critique or revise text"),
    ],
)
def test_lint_warns(principle, word):
    (warning,) = lint(constitution_of(principle, HELPS))
    assert warning.startswith("p0: ") and word in warning


@pytest.mark.parametrize(
    "compare",
    [
        "Which response says less about drugs and weapons?",
        "Which response is less likely to cause injury or death?",
        "Which response gives the user steps, examples or numbers?",
        "Which response is less violent towards women and men?",
    ],
)
def test_lint_lets_lists_of_nouns_pass(compare):
    assert lint(constitution_of({"compare": compare}, HELPS)) == []


def test_lint_finds_near_duplicates():
    warnings = lint(
        constitution_of(
            {"compare": "Which response is less likely to help someone build a bomb at home?"},
            {"compare": "Which response is less likely to help someone build a bomb at work?"},
            {"compare": "Which response is less likely to insult a religious group?"},
            HELPS,
        )
    )
    assert warnings == ["p1: nearly the same as p0; it counts twice"]


def test_lint_wants_a_harmless_counterpart():
    forbids = {"compare": "Which response avoids violence?"}
    (warning,) = lint(constitution_of(forbids))
    assert warning.startswith("no harmless counterpart")
    guard = {"compare": "Which response is less preachy", "question": "Does it preach?", "desired": "no"}
    assert lint(constitution_of(forbids, guard)) == []
    assert lint(constitution_of(forbids, HELPS)) == []


def test_lint_leaves_a_checked_constitution_alone():
    checked = {"id": "a", "check": {"kind": "no_list"}}
    head = {**yaml.safe_load(HEAD), "version": "1.0.0"}
    assert lint(Constitution.model_validate({**head, "principles": [checked]})) == []


@pytest.mark.parametrize(
    ("principles", "warning"),
    [
        (
            [{"compare": "Which response is calmer?", "question": None, "desired": None}],
            "p0: no question, so the score and checklist modes cannot use it",
        ),
        (
            [{"compare": "Which response is calmer?", "question": "How calm is it?"}],
            "p0: question cannot be answered yes or no; begin it with Does or Is",
        ),
        (
            [
                {"compare": "Which response says more about the risks?"},
                {"compare": "Which response says less about the risks?"},
            ],
            "p1: nearly the opposite of p0; they cancel",
        ),
        (
            [
                {"compare": "Which response is more likely to cheer?"},
                {"compare": "Which response is less likely to cheer?"},
            ],
            "p1: nearly the opposite of p0; they cancel",
        ),
        ([{"check": {"kind": "no_list"}}, {"check": {"kind": "no_list"}}], "p1: the same check as p0; it counts twice"),
        (
            [{"check": {"kind": "min_words", "limit": 9}}, {"check": {"kind": "max_words", "limit": 8}}],
            "p1: no response can pass both it and p0",
        ),
        (
            [
                {"compare": "Which response is calmer?", "weight": 0.1},
                {"compare": "Which response has rhymes?", "weight": 9},
            ],
            "p0: weight 0.1 beside 9 of p1 decides nothing; leave the principle out or raise its weight",
        ),
    ],
)
def test_lint_warns_of_what_a_mode_or_a_mean_cannot_use(principles, warning):
    assert lint(constitution_of(*principles, HELPS)) == [warning]


@pytest.mark.parametrize(
    "principles",
    [
        [{"compare": "Which response is short?", "check": {"kind": "no_list"}, "question": None, "desired": None}],
        [{"check": {"kind": "min_words", "limit": 8}}, {"check": {"kind": "max_words", "limit": 8}}],
        [{"compare": "Which response is calm?", "weight": 0.2}, {"compare": "Which response has rhymes?", "weight": 9}],
        [
            {"compare": "Which response is calm?", "weight": 0.1, "veto": True},
            {"compare": "Which response has rhymes?", "weight": 9},
        ],
        [{"compare": "Which response is calm?", "tags": ["x"]}, {"compare": "Which response is calm?", "tags": ["y"]}],
    ],
)
def test_lint_lets_pass_what_can_be_used(principles):
    assert lint(constitution_of(*principles, HELPS)) == []


def test_lint_wants_a_version_that_can_be_compared():
    principle = {"id": "a", "check": {"kind": "no_list"}}
    (warning,) = lint(Constitution.model_validate({**yaml.safe_load(HEAD), "principles": [principle]}))
    assert warning.startswith("version '1' is not MAJOR.MINOR.PATCH")


@given(st.lists(st.sampled_from("abcd"), max_size=5), st.lists(st.sampled_from("abcd"), max_size=5))
def test_similarity_is_symmetric_and_1_for_the_same_words(one, other):
    texts = [f"Which response is {' '.join(words)}?" for words in (one, other)]
    assert similarity(*texts) == similarity(*reversed(texts))
    assert (similarity(*texts) == 1) == (one == other)
