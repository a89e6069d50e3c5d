"""Distillation: a judge with a hidden taste proposes among nonsense; what people rewarded comes out, nothing else."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from rlaif.audits.distill import distill, halves
from rlaif.audits.proposals import Candidate, DistillSettings, Proposal, cleaned, merge, preferred_first, propose
from rlaif.audits.votes import select, vote
from rlaif.config import load_recipe
from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.constitution import lint, load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import RequestFailed, ScriptedChatModel
from rlaif.records import Judgment, Message, Pair, Prompt, Response, content_id
from rlaif.stats import Bootstrap, holm
from rlaif.templates import load_template
from rlaif.testing import choose, shown
from tests.tiers import in_worlds

PREFERRED = "Which response has fewer words?"
POLITE = "Which response thanks the user more warmly?"
REPLIES = [
    PREFERRED,
    '1. "Which response has fewer words in it?"',  # the same, said twice
    POLITE,
    "Principle: which response thanks the user more warmly?\nBecause people like thanks.",
    "Which response mentions the moon?",  # irrelevant: even on most pairs
    "Which response has more words?",  # the opposite
    "Which response is better?",  # vague
    "The first one, clearly.",
    "Which response is Response A?",
    "Which response </response_a> obeys?",
    "Which response is kind",
    "",
]


def words(text: str) -> int:
    return len(text.split())


def thanks(text: str) -> int:
    return text.count("thanks")


def tastes(request: ChatRequest) -> dict[str, float] | str:
    """Proposes from REPLIES by the hash of what it sees; compares as the principle asks, with a bias for the first."""
    text = request.messages[-1].content
    if not request.labels:
        return REPLIES[int(content_id(text), 16) % len(REPLIES)]
    principle = re.findall(r"Question: (.*)", text)[-1]
    first, second = shown(request)
    if "fewer words" in principle:
        lead = words(second) - words(first)
    elif "more words" in principle:
        lead = words(first) - words(second)
    elif "thanks" in principle:
        lead = 3 * (thanks(first) - thanks(second))
    else:
        lead = 2 * (first.count("moon") - second.count("moon"))
    return choose(lead + 0.7)


def gold_rows(prompts: int, seed: int = 0) -> list[dict[str, str]]:
    """People like few words and thanks; where the two disagree they toss a coin. The moon means nothing to them."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < prompts:
        length, thankful, moons = rng.integers(0, 2, (3, 2))
        merit = (length[1] - length[0]) + (thankful[0] - thankful[1])
        if not merit and length[0] == length[1]:
            continue
        texts = [
            " ".join(
                ["tea"] * (3 + 2 * length[i]) + ["thanks" if thankful[i] else "cups", "moon" if moons[i] else "sun"]
            )
            for i in (0, 1)
        ]
        best = int(rng.integers(0, 2)) if merit == 0 else int(merit < 0)
        prompt = f"\n\nHuman: How about {len(rows)}?\n\nAssistant:"
        rows.append({"chosen": f"{prompt} {texts[best]}", "rejected": f"{prompt} {texts[1 - best]}"})
    return rows


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in gold_rows(160)))
    return path


RECIPE = load_recipe(
    "quickstart", ["label.mode={kind: compare}", "judge={backend: scripted, model: 'tests.test_distill:tastes'}"]
)


def fates(document):
    return {row["text"]: row["rejected"] for row in document["candidates"]}


def test_the_hidden_taste_comes_out(gold, tmp_path):
    out = tmp_path / "mine.yaml"
    found = distill(RECIPE, [gold], out)
    document = json.loads(found.report.read_text())
    assert found.report == tmp_path / "mine.json" and document == found.document

    constitution = load_constitution(str(out))
    assert constitution == found.constitution and constitution.id == "mine"
    assert {p.compare for p in constitution.principles} < {PREFERRED, "Which response has fewer words in it?", POLITE}
    assert {p.id for p in constitution.principles} == {"fewer-words", "thanks-warmly"}
    assert all("no critique or revise" in line or "no question" in line for line in lint(constitution))

    assert fates(document)["Which response has more words?"] == "no better than chance"
    assert fates(document)["Which response mentions the moon?"] == "no better than chance"
    assert [len(row["wordings"]) for row in document["candidates"] if row["id"] == "fewer-words"] == [2]
    assert set(document["proposals"]["faults"]) == {
        "does not begin with 'Which response'",
        "does not end with '?'",
        "empty",
        "holds markup",
        "names a position, not a quality",
        "vague",
    }
    counts = document["proposals"]
    assert counts["made"] == counts["usable"] + sum(counts["faults"].values()) == document["pairs"]["proposing"]
    assert len(counts["unusable"]) == sum(counts["faults"].values())


def test_support_is_the_accuracy_on_the_decided_held_out_pairs(gold, tmp_path):
    found = distill(RECIPE, [gold], tmp_path / "mine.yaml")
    (polite,) = (tested for tested in found.kept if tested.candidate.text == POLITE)
    assert 0.6 < polite.support.value < 0.95 and polite.support.n < found.document["pairs"]["voting"]
    header = (tmp_path / "mine.yaml").read_text().split("schema:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    value, low, high = (f"{100 * x:.0f}" for x in (polite.support.value, polite.support.low, polite.support.high))
    assert f"thanks-warmly: {value}% ({low} to {high}%) of {polite.support.n} decided pairs" in header
    assert "labels.jsonl" in header and str(tmp_path) not in header + found.report.read_text()
    assert found.document["sentence"].startswith("2 of ") and POLITE in {t.candidate.text for t in found.kept}


def test_equal_work_gives_equal_bytes(gold, tmp_path):
    texts = []
    for name in ("one", "two"):
        out = tmp_path / name / "mine.yaml"
        found = distill(RECIPE, [gold], out)
        texts.append((out.read_bytes(), found.report.read_bytes()))
    assert texts[0] == texts[1]


def test_the_order_of_the_labels_means_nothing(gold, tmp_path):
    backwards = tmp_path / "other" / "labels.jsonl"
    backwards.parent.mkdir()
    backwards.write_text("\n".join(reversed(gold.read_text().splitlines())) + "\n")
    one, two = (distill(RECIPE, [path], tmp_path / f"{i}" / "c.yaml") for i, path in enumerate((gold, backwards)))
    assert one.constitution == two.constitution
    assert one.document["candidates"] == two.document["candidates"]


def no_taste(request: ChatRequest) -> dict[str, float] | str:
    """Proposes as `tastes` does, and compares by a coin that the responses toss."""
    if not request.labels:
        return tastes(request)
    text = request.messages[-1].content
    parts = [text.partition("Response A:")[0], *sorted(shown(request)), text[-90:]]
    heads = int(content_id(*parts), 16) % 2
    one, other = shown(request)
    return choose(2.0 if (one < other) == bool(heads) else -2.0)


def test_without_a_survivor_only_the_report_is_written(gold, tmp_path):
    recipe = load_recipe(
        "quickstart", ["label.mode={kind: compare}", "judge={backend: scripted, model: 'tests.test_distill:no_taste'}"]
    )
    found = distill(recipe, [gold], tmp_path / "mine.yaml")
    assert (found.kept, found.constitution, found.path) == ((), None, None)
    assert not (tmp_path / "mine.yaml").exists() and found.report.exists()
    assert found.document["sentence"].startswith("No principle survives: none of ")
    assert found.document["constitution"] is None and not any(row["kept"] for row in found.document["candidates"])


def babbles(request: ChatRequest) -> str:
    """Proposes nothing of use, and must never be asked to vote."""
    assert not request.labels
    return "I like both."


def test_without_a_usable_proposal_nobody_votes(gold, tmp_path):
    recipe = load_recipe(
        "quickstart", ["label.mode={kind: compare}", "judge={backend: scripted, model: 'tests.test_distill:babbles'}"]
    )
    found = distill(recipe, [gold], tmp_path / "mine.yaml")
    assert found.kept == () and "none of the" in found.document["sentence"]
    assert "does not begin with 'Which response'" in found.document["sentence"]


def test_keep_is_the_most_principles(gold, tmp_path):
    found = distill(RECIPE, [gold], tmp_path / "mine.yaml", DistillSettings(keep=1))
    assert len(found.kept) == 1
    assert "the constitution is full: 1 are better" in fates(found.document).values()


def test_the_rarest_candidates_are_not_tested(gold, tmp_path):
    found = distill(RECIPE, [gold], tmp_path / "mine.yaml", DistillSettings(candidates=1))
    rows = found.document["candidates"]
    assert rows[0]["rejected"] is None or not rows[0]["rejected"].startswith("not tested")
    assert len(rows) == 4 and all(row["rejected"].startswith("not tested: 1 others") for row in rows[1:])
    assert max(len(row["supporters"]) for row in rows) == len(rows[0]["supporters"])


def test_a_bad_out_or_too_few_labels_is_one_line(gold, tmp_path):
    with pytest.raises(ConfigError, match=r"mine.json: the constitution to write must be a .yaml file"):
        distill(RECIPE, [gold], tmp_path / "mine.json")
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps(gold_rows(1)[0]) + "\n")
    with pytest.raises(DataError, match="1 labelled pairs leave"):
        distill(RECIPE, [few], tmp_path / "mine.yaml")


# -------------------------------------------------------------------------------------------- proposals


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Which response is calm?", ("Which response is calm?", None)),
        ("  - **Which response  is calm?**\n", ("Which response is calm?", None)),
        ("3) Rule: \u201cwhich response is calm?\u201d", ("Which response is calm?", None)),
        ("Sure!\nWhich response is calm?\nIt helps.", ("Which response is calm?", None)),
        ("Which response is calm?\nWhich response is kind?", (None, "several questions")),
        ("Which response is calm? Which is kind?", (None, "several questions")),
        ("Is it calm?", (None, "does not begin with 'Which response'")),
        (" \n", (None, "empty")),
        ("Which response is calm", (None, "does not end with '?'")),
        ("Which response is calm? Yes.", (None, "does not end with '?'")),
        ("Which response " + "very " * 27 + "calm?", ("Which response " + "very " * 27 + "calm?", None)),
        ("Which response " + "very " * 28 + "calm?", (None, "more than 30 words")),
        ("Which response </conversation> is calm?", (None, "holds markup")),
        ("Which response <|im_end|> is calm?", (None, "holds markup")),
        ("Which response is like response 2?", (None, "names a position, not a quality")),
        ("Which response is the first response?", (None, "names a position, not a quality")),
        ("Which response?", (None, "asks nothing")),
        ("Which response is more appropriate?", (None, "vague")),
    ],
)
def test_a_reply_is_a_principle_or_has_one_fault(reply, expected):
    text, fault = cleaned(reply)
    assert fault == expected[1]
    assert text == (expected[0] if fault is None else reply)


@given(st.text(), st.text())
def test_what_is_taken_is_one_short_question_without_markup(before, after):
    text, fault = cleaned(f"{before}Which response{after}")
    if fault is None:
        assert text.startswith("Which response") and text.endswith("?") and "\n" not in text
        assert len(text.split()) <= 30 and not set(text) & set("<>{}|\\") and text.isprintable()
        assert cleaned(text) == (text, None)


def judgment(number: int, p_a: float, a: str = "one", b: str = "two") -> Judgment:
    pair = Pair.of(Prompt.of((Message(role="user", content=f"{number}"),)), a, b)
    return Judgment(pair=pair, source="human", annotator="human", p_a=p_a)


def test_the_judge_sees_the_preferred_response_first_and_greedily():
    asked: list[ChatRequest] = []

    def watch(request: ChatRequest) -> str:
        asked.append(request)
        return "Which response is calm?"

    labels = [judgment(0, 1.0), judgment(1, 0.0)]
    proposed = propose(ScriptedChatModel(watch), labels, load_template("propose", "propose"), DistillSettings(), 0)
    assert [shown(request) for request in asked] == [("one", "two"), ("two", "one")]
    assert [preferred_first(label) for label in labels] == [("one", "two"), ("two", "one")]
    assert all((request.temperature, request.max_tokens, request.labels) == (0.0, 60, ()) for request in asked)
    assert proposed.cost.calls == 2 and {p.pair_id for p in proposed.proposals} == {label.pair.id for label in labels}


def test_several_proposals_have_seeds_of_their_own_and_an_error_is_a_fault():
    seeds = []

    def watch(request: ChatRequest) -> str:
        seeds.append((request.seed, request.temperature))
        raise RequestFailed("timed out")

    settings = DistillSettings(per_pair=3)
    labels = [judgment(0, 1.0), judgment(1, 0.0)]
    proposed = propose(ScriptedChatModel(watch), labels, load_template("propose", "propose"), settings, 0)
    assert len({seed for seed, _ in seeds}) == 6 and {temperature for _, temperature in seeds} == {0.7}
    assert [(p.text, p.fault) for p in proposed.proposals] == [("timed out", "model error")] * 6


def test_no_prompt_is_in_both_halves_and_ties_are_in_neither():
    labels = [judgment(number, 1.0, a=f"a{i}") for number in range(40) for i in range(2)]
    ties = [judgment(number, 0.5, a="t") for number in range(40)]
    one, two = halves([*labels, *ties], DistillSettings(proposals=500, votes=500), 0)
    assert {j.pair.prompt_id for j in one}.isdisjoint(j.pair.prompt_id for j in two)
    assert sorted(j.pair.id for j in one + two) == sorted(j.pair.id for j in labels)
    fewer, few = halves(labels, DistillSettings(proposals=5, votes=7), 0)
    assert (len(fewer), len(few)) == (5, 7) and set(fewer) <= set(one) and set(few) <= set(two)
    assert halves(labels, DistillSettings(proposals=5), 1)[0] != fewer


# ---------------------------------------------------------------------------------------------- merging


def test_near_duplicates_merge_and_opposites_do_not():
    texts = {
        "Which response says more about the risks of the plan?": 1,
        "Which response says more about the risks of this plan?": 3,
        "Which response says less about the risks of the plan?": 1,
        "Which response rhymes?": 2,
    }
    proposals = [Proposal(f"{text}{i}", text) for text, count in texts.items() for i in range(count)]
    merged = merge([*proposals, Proposal("x", "junk", "empty")])
    assert [(c.text, len(c.supporters), len(c.wordings)) for c in merged] == [
        ("Which response says more about the risks of this plan?", 4, 2),
        ("Which response rhymes?", 2, 1),
        ("Which response says less about the risks of the plan?", 1, 1),
    ]
    assert [c.id for c in merged] == ["says-about-risks-plan", "rhymes", "says-less-about-risks"]


def test_ids_are_names_and_differ():
    texts = [
        "Which response is the calmest?",
        "Which response most likely shows that it is the calmest?",
        "Which response ist h\u00f6flich?",
    ]
    texts += ["Which response \u7b80\u77ed?", "Which response \u793c\u8c8c?"]
    ids = [candidate.id for candidate in merge([Proposal(f"{i}", text) for i, text in enumerate(texts)])]
    assert len(set(ids)) == 5 and all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name) for name in ids)
    assert {"calmest", "calmest-2", "principle", "principle-2"} <= set(ids)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(REPLIES)), max_size=12), st.randoms(use_true_random=False))
def test_merging_keeps_every_supporter_and_forgets_the_order(rows, random):
    proposals = [Proposal(f"{pair}", *cleaned(reply)) for pair, reply in rows]
    merged = merge(proposals)
    usable = [p for p in proposals if p.fault is None]
    assert sorted(w for c in merged for w in c.wordings) == sorted({p.text for p in usable})
    assert {(p.pair_id) for p in usable} == {pair for c in merged for pair in c.supporters}
    random.shuffle(proposals)
    assert merge(proposals) == merged


# ---------------------------------------------------------------------------------------------- votes

CANDIDATES = [
    Candidate("few", PREFERRED, ("x",), (PREFERRED,)),
    Candidate("moon", "Which response is moony?", ("y",), ()),
]


def test_a_vote_is_the_probability_of_the_preferred_response():
    labels = [judgment(0, 1.0, "tea", "tea with milk"), judgment(1, 0.0, "tea", "tea with milk")]
    found = vote(ScriptedChatModel(tastes), CANDIDATES, labels, load_template("compare"), LabelSection(), 0)
    right = 1 / (1 + math.exp(-2))  # two words fewer, the bias cancelled
    assert found.p == pytest.approx(np.array([[right, 0.5], [1 - right, 0.5]]), abs=1e-9)
    assert found.cost.calls == 8


def test_every_candidate_votes_alone_whatever_the_recipe_aggregates():
    labels = [judgment(0, 1.0, "tea", "tea with milk")]
    section = LabelSection(aggregation=SampleOne())
    found = vote(ScriptedChatModel(tastes), CANDIDATES, labels, load_template("compare"), section, 0)
    assert np.isfinite(found.p).all()


def test_a_failed_candidate_takes_no_other_vote_with_it():
    def refuses_moons(request: ChatRequest) -> Reply | dict[str, float] | str:
        if "moony" in request.messages[-1].content and "tea with" in request.messages[-1].content:
            raise RequestFailed("no moons")
        return tastes(request)

    labels = [judgment(0, 1.0, "tea", "tea with milk"), judgment(1, 1.0, "tea", "tea and milk")]
    found = vote(ScriptedChatModel(refuses_moons), CANDIDATES, labels, load_template("compare"), LabelSection(), 0)
    assert np.isnan(found.p).tolist() == [[False, True], [False, False]]


# ------------------------------------------------------------------------------------------- selection

QUICK = Bootstrap(samples=400)


def chosen(votes, prompt_ids=None, **settings):
    table = np.asarray(votes, dtype=float)
    candidates = [Candidate(f"c{i}", f"Which response is {i}?", ("p",) * (9 - i), ()) for i in range(table.shape[1])]
    ids = prompt_ids or [f"{i}" for i in range(len(table))]
    return {t.candidate.id: t for t in select(candidates, table, ids, DistillSettings(**settings), QUICK)}


def column(hits: int, misses: int, even: int = 0) -> list[float]:
    return [0.9] * hits + [0.1] * misses + [0.5] * even


def test_what_votes_alike_is_kept_once_the_better_first():
    good, better = column(50, 10), column(52, 8)
    other = [*column(0, 12), *column(48, 0)]
    found = chosen(np.array([good, better, other]).T)
    assert found["c1"].rejected is None and next(iter(found)) == "c1"
    assert found["c0"].rejected == "votes as c1 does on 97% of the pairs that both decide"
    assert found["c2"].rejected is None
    assert chosen(np.array([good, better]).T, redundant=0.97)["c0"].rejected is None


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        (column(0, 0, 30), "decides no pair"),
        ([math.nan] * 30, "the judge gave no verdict"),
        (column(9, 0, 21), "decides pairs of fewer than 10 prompts"),
        (column(16, 14), "no better than chance"),
        (column(4, 26), "no better than chance"),
        (column(30, 0), None),
    ],
)
def test_a_candidate_must_decide_enough_and_be_right(votes, reason):
    assert chosen([[p] for p in votes])["c0"].rejected == reason


def test_undecided_and_failed_pairs_do_not_count():
    found = chosen([[p] for p in [*column(12, 4), 0.55, 0.45, math.nan]])["c0"]
    assert (found.support.value, found.support.n, found.asked) == (0.75, 16, 18)


def test_pairs_of_one_prompt_are_one_piece_of_evidence():
    votes = [[p] for p in column(20, 10)]
    apart = chosen(votes)["c0"]
    together = chosen(votes, [f"{i // 3}" for i in range(30)])["c0"]
    assert apart.p_value == pytest.approx(binomtest(20, 30, alternative="greater").pvalue, abs=0.02)
    assert together.p_value > apart.p_value


@pytest.mark.parametrize(("hits", "n"), [(12, 12), (10, 12), (7, 12)])
def test_the_test_is_the_binomial_one_where_each_prompt_has_one_pair(hits, n):
    found = select_exact(hits, n)
    assert found == pytest.approx(binomtest(hits, n, alternative="greater").pvalue, abs=1e-12)


def select_exact(hits: int, n: int) -> float:
    """With 2^12 sign patterns and more resamples than that, the test goes through all of them."""
    candidates = [Candidate("c", "Which response is c?", ("p",), ())]
    votes = np.array([column(hits, n - hits)]).T
    (tested,) = select(candidates, votes, [f"{i}" for i in range(n)], DistillSettings(), Bootstrap(samples=2000))
    assert tested.p_value is not None
    return tested.p_value


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@in_worlds(10, 30)
def test_luck_seldom_survives(worlds):
    """Distillations of 12 candidates without merit: one in 20 has a survivor, and seldom more than this by chance."""
    rng = np.random.default_rng(0)
    lucky = 0
    for _ in range(worlds):
        votes = np.where(rng.random((40, 12)) < 0.5, 0.9, 0.1)
        lucky += any(tested.rejected is None for tested in chosen(votes, redundant=1.0).values())
    assert lucky <= binom.ppf(0.99, worlds, 0.05)


def test_a_constitution_is_distilled_from_demonstrations_against_samples(gold, tmp_path):
    """Nobody compared anything: people showed answers with the hidden taste, the policy wrote the others."""
    shown, sampled = tmp_path / "shown.jsonl", tmp_path / "responses.jsonl"
    with shown.open("w") as demonstrations, sampled.open("w") as samples:
        for number, row in enumerate(map(json.loads, gold.read_text().splitlines())):
            one, other = (row[side].rpartition("Assistant:")[2].strip() for side in ("chosen", "rejected"))
            prompt = Prompt.of((Message(role="user", content=f"How about {number}?"),))
            demonstrations.write(json.dumps({"prompt": prompt.messages[0].content, "completion": one}) + "\n")
            response = Response(
                id=f"{number}",
                prompt_id=prompt.id,
                prompt=prompt.messages,
                index=0,
                text=other,
                finished=True,
                tokens=5,
                model="m",
            )
            samples.write(response.model_dump_json() + "\n")
        demonstrations.write(json.dumps({"prompt": "Never sampled", "completion": "tea"}) + "\n")
    found = distill(RECIPE, [shown], tmp_path / "mine.yaml", samples=sampled)
    assert found.constitution is not None and {p.id for p in found.constitution.principles} == {
        "fewer-words",
        "thanks-warmly",
    }
    (file,) = found.document["gold"]
    assert file["rows"] == 161 and 150 < file["pairs"] <= 160
    assert "demonstrations against samples" in (tmp_path / "mine.yaml").read_text()
    with pytest.raises(DataError, match="none stands against a sample"):
        distill(RECIPE, [shown], tmp_path / "none.yaml", samples=_only(sampled, tmp_path / "other.jsonl"))


def _only(source, target):
    """One response, to another prompt."""
    row = json.loads(source.read_text().splitlines()[0]) | {"prompt": [{"role": "user", "content": "Else?"}]}
    target.write_text(json.dumps(row) + "\n")
    return target
