"""The audit proposes a mode: judges of known quality are told apart, luck is not taken for merit, and a recipe that
says `auto` gets the mode that was chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlaif.audits.audit import AuditResult, write_audit
from rlaif.audits.choice import ModeTrial, agreement_on, beats_a_coin, choose, chooses, flattery, lines
from rlaif.audits.gold import read_gold
from rlaif.audits.modes import DEFAULTS, mode_name, parse_modes
from rlaif.audits.requirement import check_requirement
from rlaif.checkup import check_file, json_schema
from rlaif.config import load_recipe
from rlaif.config.judging import ChecklistMode, CompareMode, ContrastMode, PanelMember, PanelMode, ReasonedMode
from rlaif.config.models import ScriptedModel
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.judge.result import Cost
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.engine import Engine
from rlaif.models.open import open_model
from rlaif.records import Judgment
from rlaif.run_folder import Run
from rlaif.stages import label
from rlaif.stats import Bootstrap
from rlaif.study.config import load_study, recipe_of
from tests.fake_run import prompt, response
from tests.tiers import in_worlds, seeds
from tests.tried_modes import CONSTITUTION, planned_recipe, planned_words, tosses, write_plan

pytestmark = pytest.mark.usefixtures("blank_plots")
THREE = ("compare,checklist,contrast",)
PLAIN = "label.mode={kind: compare, template: compare}"


def audit(
    folder: Path,
    rights: Mapping[str, Sequence[bool | None]],
    *overrides: str,
    modes: Sequence[str] = THREE,
    gate: str | None = None,
    probe_pairs: int = 0,
    **plan: Any,
) -> AuditResult:
    recipe = planned_recipe(folder, PLAIN, *overrides)
    gold = write_plan(folder / "gold.jsonl", rights, **plan)
    tried = parse_modes(modes, recipe.label.mode)
    return write_audit(recipe, [gold], gate, folder / "out", probe_pairs=probe_pairs, modes=tried)


def rows(audited: AuditResult) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in audited.audit["modes"]["rows"]}


# ---------------------------------------------------------------------------------------- judges of known quality


@seeds(4)
@pytest.mark.parametrize("best", ["compare", "checklist", "contrast"])
def test_the_best_mode_is_chosen_where_the_gap_is_large(tmp_path: Path, best: str, seed: int) -> None:
    accuracy = dict.fromkeys(("compare", "checklist", "contrast"), 0.6) | {best: 0.85}
    audited = audit(tmp_path, tosses(240, seed, **accuracy))
    modes = audited.audit["modes"]
    assert modes["chosen"]["name"] == best and not modes["close"]
    found = rows(audited)
    assert found[best]["agreement"]["low"] <= 0.85 <= found[best]["agreement"]["high"]
    for other in set(accuracy) - {best}:
        assert found[other]["difference"]["high"] < 0 and found[other]["agreement"]["low"] < 0.6
    assert modes["sentence"].startswith(f"Proposed: {best}. On ")
    assert (
        f"that did not choose it agrees with people on {100 * found[best]['agreement']['value']:.0f}%"
        in modes["sentence"]
    )


@seeds(4)
def test_of_two_equal_modes_the_cheaper_is_chosen(tmp_path: Path, seed: int) -> None:
    """Two of equal accuracy; checklist reads 60 tokens per pair, compare 200. Each leads about half of the time."""
    audited = audit(tmp_path, tosses(200, seed, compare=0.75, checklist=0.75), modes=["compare,checklist"])
    modes = audited.audit["modes"]
    assert modes["chosen"]["name"] == "checklist" and modes["close"] and modes["rivals"]
    assert "cannot be told apart on so few pairs" in modes["reasons"][0]
    assert "the cheaper is taken: per pair 60 tokens in 2 requests, against 200 in 2." in modes["reasons"][0]


@seeds(4)
def test_of_coins_none_is_proposed_and_the_audit_is_of_the_recipes_mode(tmp_path: Path, seed: int) -> None:
    tossed = tosses(200, 20 + seed, compare=0.5, checklist=0.5, contrast=0.5)
    audited = audit(tmp_path, tossed, "label.mode.kind=checklist")
    modes = audited.audit["modes"]
    assert modes["chosen"] is None and modes["picked"] in tossed
    beat = [name for name, row in rows(audited).items() if row["agreement"]["low"] > 0.5]
    told = f"There {beat[0]} does" if beat else r"none of [a-z]+, [a-z]+ and [a-z]+ beats a coin\. Of "
    assert re.match(rf"No mode is proposed: .*{told}", modes["sentence"])
    assert audited.audit["audited"]["mode"]["kind"] == "checklist"
    assert audited.audit["accuracy"] == rows(audited)["checklist"]["agreement"]


def test_a_mode_that_was_not_tried_is_audited_where_none_is_proposed(tmp_path: Path) -> None:
    tossed = tosses(60, 1, compare=0.5, checklist=0.5, score=0.9)
    audited = audit(tmp_path, tossed, "label.mode.kind=score", modes=["compare,checklist"])
    assert audited.audit["modes"]["chosen"] is None and audited.audit["audited"]["mode"]["kind"] == "score"
    assert audited.audit["accuracy"]["value"] > 0.7
    reported = audited.audit["modes"]["reporting"]["pairs"]
    assert audited.audit["total_cost"]["calls"] == 60 * 4 + reported * 2


def test_who_fails_to_lead_may_not_be_proposed_for_what_the_other_half_says(tmp_path: Path) -> None:
    """On the choosing half compare is always right, on the other never; checklist is a coin there and right here."""
    halves = [chooses(j.pair.prompt_id) for j in _gold(tmp_path, 120).judgments]
    coin = [number % 4 < 2 for number in range(120)]
    rights = {"compare": halves, "checklist": [not half or toss for half, toss in zip(halves, coin, strict=True)]}
    audited = audit(tmp_path, rights, modes=["compare,checklist"])
    modes = audited.audit["modes"]
    assert (modes["picked"], modes["chosen"]) == ("compare", None)
    assert "No mode is proposed: compare, which the choosing half picked, does not beat a coin" in modes["sentence"]
    assert "There checklist does, but that half may not choose" in modes["sentence"]


def _gold(folder: Path, pairs: int, **plan: Any) -> Any:
    return read_gold([write_plan(folder / "g.jsonl", {"compare": [True] * pairs, "checklist": [True] * pairs}, **plan)])


# ------------------------------------------------------------------------------------------------------ the halves


def test_halves_share_no_prompt_and_a_prompt_stays_in_its_half(tmp_path: Path) -> None:
    audited = audit(tmp_path, tosses(200, 3, compare=0.8, checklist=0.6), modes=["compare,checklist"])
    gold = read_gold([tmp_path / "gold.jsonl"])
    chose = {j.pair.prompt_id for j in gold.judgments if chooses(j.pair.prompt_id)}
    reported = {j.pair.prompt_id for j in gold.judgments} - chose
    modes = audited.audit["modes"]
    assert modes["choosing"]["prompts"] == len(chose) and modes["reporting"]["prompts"] == len(reported)
    assert 35 < len(chose) < 65 and len(chose) + len(reported) == 100
    # All else is of the half that did not choose.
    assert audited.audit["pairs"] == audited.audit["gold"][0]["pairs"] == modes["reporting"]["pairs"]
    assert audited.audit["prompts"] == len(reported) and audited.audit["gold_rows"]["left_out"] == 0
    # Other gold beside it, and another seed, move no prompt.
    more = audit(tmp_path, tosses(300, 4, compare=0.8, checklist=0.6), "seed=9", modes=["compare,checklist"]).audit[
        "modes"
    ]
    assert more["choosing"]["prompts"] >= len(chose)


def test_figures_are_those_of_a_plain_audit_on_the_other_half(tmp_path: Path) -> None:
    """Nothing but the pairs differs: the same figures come of an audit of the chosen mode on these pairs alone."""
    planned = tosses(80, 5, compare=0.9, checklist=0.6)
    audited = audit(tmp_path, planned, modes=["compare,checklist"], probe_pairs=6, gate="accuracy=0.7")
    gold = read_gold([tmp_path / "gold.jsonl"])
    lines = (tmp_path / "gold.jsonl").read_text().splitlines()
    kept = [line for line, j in zip(lines, gold.judgments, strict=True) if not chooses(j.pair.prompt_id)]
    (tmp_path / "half.jsonl").write_text("".join(f"{line}\n" for line in kept))
    recipe = planned_recipe(tmp_path, PLAIN)
    alone = write_audit(recipe, [tmp_path / "half.jsonl"], None, tmp_path / "alone", probe_pairs=6).audit
    own = {"modes", "gate", "gold", "total_cost"}
    assert {k: v for k, v in audited.audit.items() if k not in own} == {k: v for k, v in alone.items() if k not in own}
    total = audited.audit["total_cost"]["calls"] - audited.audit["probe_cost"]["calls"]
    assert total == 80 * 2 + 80 * 2 and audited.audit["gate"]["shortfalls"] == []
    assert audited.audit["modes"]["rows"][0]["consistency"] == {
        k: alone["consistency"][k] for k in ("value", "low", "high", "n")
    }


def test_the_order_in_which_modes_are_named_changes_nothing(tmp_path: Path) -> None:
    planned = tosses(80, 6, compare=0.7, checklist=0.7, contrast=0.7)
    first = audit(tmp_path, planned)
    written, page = first.file.read_bytes(), first.page.read_bytes()
    again = audit(tmp_path, planned, modes=["{kind: contrast}", "checklist", "compare"])
    assert again.file.read_bytes() == written and again.page.read_bytes() == page and again.audit == first.audit


def test_too_few_prompts_for_two_halves_is_one_line_and_nothing_is_asked(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"preference on [01] prompts of the one and [01] of the other; give more --gold"
    ):
        audit(tmp_path, {"compare": [None], "checklist": [None]}, modes=["compare,checklist"])


# --------------------------------------------------------------------------------- modes that cannot be chosen


def test_a_mode_for_which_the_constitution_has_no_texts_is_listed_with_its_reason(tmp_path: Path) -> None:
    without = re.sub(r".*contrast:.*\n", "", CONSTITUTION)
    recipe = planned_recipe(tmp_path, PLAIN, constitution=without)
    gold = write_plan(tmp_path / "gold.jsonl", tosses(80, 7, compare=0.6, checklist=0.9, contrast=1.0))
    tried = parse_modes(THREE, recipe.label.mode)
    audited = write_audit(recipe, [gold], None, tmp_path / "out", probe_pairs=0, modes=tried)
    found = rows(audited)
    assert "principle 'good' has no `contrast`" in found["contrast"]["problem"]
    assert found["contrast"]["agreement"] is None and found["contrast"]["cost"] is None
    assert audited.audit["modes"]["chosen"]["name"] == "checklist"
    said = lines(audited.audit["modes"])
    assert any(line.startswith("  contrast cannot be chosen: constitution 'planned'") for line in said)
    assert "2 modes were compared" in " ".join(said)


def test_a_mode_with_more_failures_than_the_recipe_allows_is_never_chosen(tmp_path: Path) -> None:
    planned = tosses(100, 8, compare=1.0, checklist=0.8)
    planned["compare"][:5] = [None] * 5
    (tmp_path / "strict").mkdir()
    strict = audit(tmp_path / "strict", planned, modes=["compare,checklist"])
    assert strict.audit["modes"]["chosen"]["name"] == "checklist"
    problem = rows(strict)["compare"]["problem"]
    assert problem.startswith("5 of 100 pairs have no judgment (5.0%, limit 2.0%); first: model error")
    assert rows(strict)["compare"]["coverage"] == 0.95
    allowed = audit(tmp_path, planned, "label.max_failures=0.1", modes=["compare,checklist"])
    assert allowed.audit["modes"]["chosen"]["name"] == "compare"
    # In choosing each of them counts half, so that a mode gains nothing by failing.
    halves = [chooses(j.pair.prompt_id) for j in read_gold([tmp_path / "gold.jsonl"]).judgments]
    failed = sum(half for half, right in zip(halves, planned["compare"], strict=True) if right is None)
    assert rows(allowed)["compare"]["choosing"]["value"] == pytest.approx(1 - failed / 2 / sum(halves))
    assert rows(allowed)["compare"]["agreement"]["value"] == 1.0


def test_where_no_mode_can_judge_the_recipes_own_says_why(tmp_path: Path) -> None:
    without = re.sub(r" +(question|desired|contrast):.*\n", "", CONSTITUTION)
    gold = write_plan(tmp_path / "gold.jsonl", tosses(40, 0, compare=1.0))
    recipe = planned_recipe(tmp_path, PLAIN, constitution=without)
    tried = parse_modes(["checklist,contrast"], recipe.label.mode)
    audited = write_audit(recipe, [gold], None, tmp_path / "out", probe_pairs=0, modes=tried)
    said = audited.audit["modes"]["sentence"]
    assert said == "No mode is proposed: none of checklist and contrast can judge these pairs."
    assert audited.audit["audited"]["mode"]["kind"] == "compare" and audited.audit["accuracy"]["value"] == 1.0
    with pytest.raises(ConfigError, match="has no `question`"):
        write_audit(
            planned_recipe(tmp_path, "label.mode.kind=checklist", constitution=without),
            [gold],
            None,
            tmp_path / "out",
            modes=tried,
        )


def test_the_judge_is_opened_once_for_all_modes_and_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def counted(config: Any, own: Callable[[Any], Engine] = open_model) -> Engine:
        opened.append(config)
        return own(config)

    monkeypatch.setattr("rlaif.audits.judges.open_model", counted)
    audit(tmp_path, tosses(20, 9, compare=1.0, checklist=1.0, contrast=1.0), probe_pairs=4)
    assert len(opened) == 1
    opened.clear()
    other = "{kind: panel, members: [{name: a, model: {backend: scripted, model: 'tests.audited:tosses'}}, {name: b}]}"
    audit(tmp_path, tosses(20, 9, compare=1.0, checklist=1.0), modes=["compare,checklist", other], probe_pairs=4)
    # A panel opens its members for each half; then the judge stays open.
    assert [config.model.partition(":")[2] for config in opened] == ["tosses", "planned"] * 2


def test_consistency_is_shown_where_a_mode_has_orders(tmp_path: Path) -> None:
    planned = tosses(40, 10, compare=0.9, checklist=0.9, contrast=0.9)
    audited = audit(tmp_path, planned, "judge.model=tests.tried_modes:first_come")
    found = rows(audited)
    assert found["compare"]["consistency"]["value"] == 0.0
    assert found["checklist"]["consistency"] is None and found["contrast"]["consistency"] is None
    assert found["compare"]["choosing"]["value"] == 0.5  # at even, which counts half
    assert found["contrast"]["cost"] == {"calls": 4.0, "prompt_tokens": 80.0, "completion_tokens": 0.0}


def test_the_page_has_the_sentence_the_table_and_the_caution(tmp_path: Path) -> None:
    audited = audit(tmp_path, tosses(80, 11, compare=0.9, checklist=0.6, contrast=0.6))
    page = audited.page.read_text()
    modes = audited.audit["modes"]
    assert page.index("Which mode?") < page.index("May this judge be used?")
    assert modes["sentence"] in page and all(name in page for name in ("checklist", "contrast"))
    flattered = f"flattered by up to about {100 * modes['flattery']:.1f} points"
    assert flattered in page and flattered in " ".join(modes["cautions"])
    plain = write_audit(planned_recipe(tmp_path, PLAIN), [tmp_path / "gold.jsonl"], None, tmp_path / "plain")
    assert "Which mode?" not in plain.page.read_text() and "modes" not in plain.audit


# ------------------------------------------------------------------------------------------------ the statistics

PROMPTS, PER_PROMPT, SAMPLES = 60, 2, 200


def world(
    rng: np.random.Generator, accuracies: Sequence[float], shared: float = 0.0
) -> tuple[list[ModeTrial], dict[str, str], dict[str, str]]:
    """Modes that are right with these probabilities; of a share of the pairs all err on the same ones. Later modes are
    cheaper."""
    halves = [
        {f"{half}{number}-{pair}": f"{half}{number}" for number in range(PROMPTS) for pair in range(PER_PROMPT)}
        for half in "cr"
    ]
    pairs = [pair for half in halves for pair in half]
    together = dict(zip(pairs, rng.random(len(pairs)), strict=True))
    alike = dict(zip(pairs, rng.random(len(pairs)) < shared, strict=True))
    tried = []
    for number, accuracy in enumerate(accuracies):
        own = dict(zip(pairs, rng.random(len(pairs)), strict=True))
        chose, reported = (
            {pair: float((together if alike[pair] else own)[pair] < accuracy) for pair in half} for half in halves
        )
        tried.append(ModeTrial(f"m{number}", chose, reported, Cost(9 - number, 900 - 100 * number)))
    return tried, halves[0], halves[1]


@pytest.mark.parametrize(("k", "shared"), [(2, 0.0), (3, 0.0), (6, 0.0), (3, 0.8), (3, 1.0)])
def test_the_caution_is_what_luck_gives_the_best_of_k(k: int, shared: float) -> None:
    """E[max of (agreement - truth)] over fresh worlds of equal modes, and what one world's labels tell of it."""
    rng, truth, worlds = np.random.default_rng(k), 0.6, 400
    luck, told = [], []
    for number in range(worlds):
        tried, prompts, _ = world(rng, [truth] * k, shared)
        hits = [[one.choosing[pair] for pair in prompts] for one in tried]
        luck.append(max(float(np.mean(row)) for row in hits) - truth)
        if number < 60:
            told.append(flattery(hits, list(prompts.values()), Bootstrap(SAMPLES)))
    error = float(np.std(luck)) / worlds**0.5
    assert float(np.mean(told)) == pytest.approx(float(np.mean(luck)), abs=3 * error + 0.001)
    if shared == 1.0:
        assert float(np.mean(told)) == pytest.approx(0, abs=0.002)
    else:
        assert float(np.mean(told)) > 0.01


@in_worlds(60, 600)
def test_the_half_that_did_not_choose_is_not_flattered(worlds: int) -> None:
    """Where all are equal, the first one's figure is above the truth by about what the caution says; what is reported
    of the mode picked is not, and its interval holds the truth as often as it says."""
    rng, truth = np.random.default_rng(5), 0.65
    first, reported, told, held = [], [], [], 0
    for _ in range(worlds):
        tried, prompts, others = world(rng, [truth] * 5)
        choice = choose(tried, prompts, Bootstrap(SAMPLES))
        first.append(choice.agreement[choice.ranked[0]].value - truth)
        picked = next(one for one in tried if one.name == choice.picked)
        found = agreement_on(picked.reporting, others, Bootstrap(SAMPLES))
        assert found is not None and found.low is not None and found.high is not None
        reported.append(found.value - truth)
        told.append(choice.flattery)
        held += found.low <= truth <= found.high
    error = float(np.std(reported)) / worlds**0.5
    assert float(np.mean(first)) == pytest.approx(float(np.mean(told)), abs=3 * float(np.std(first)) / worlds**0.5)
    assert float(np.mean(first)) > 10 * error / 2
    assert abs(float(np.mean(reported))) < 3 * error
    assert held / worlds > (0.85 if worlds < 100 else 0.92)


@in_worlds(40, 400)
def test_coins_are_seldom_proposed_and_the_clearly_best_nearly_always(worlds: int) -> None:
    rng = np.random.default_rng(6)
    lucky, right = 0, 0
    for _ in range(worlds):
        tried, prompts, others = world(rng, [0.5] * 5)
        picked = choose(tried, prompts, Bootstrap(SAMPLES)).picked
        (found,) = (one.reporting for one in tried if one.name == picked)
        lucky += beats_a_coin(agreement_on(found, others, Bootstrap(SAMPLES)))
        tried, prompts, _ = world(rng, [0.85, 0.6, 0.55])  # the best costs most
        right += choose(tried, prompts, Bootstrap(SAMPLES)).picked == "m0"
    assert lucky / worlds <= 0.1 if worlds < 100 else lucky / worlds <= 0.05
    assert right / worlds >= 0.9


def outcomes(right: int, pairs: int = 40) -> dict[str, float]:
    return {f"p{number}": float(number < right) for number in range(pairs)}


def modes_of(*right_and_tokens: tuple[int, int]) -> list[ModeTrial]:
    return [
        ModeTrial(f"m{i}", outcomes(right), outcomes(right), Cost(1, tokens))
        for i, (right, tokens) in enumerate(right_and_tokens)
    ]


EACH_ITS_OWN = {f"p{number}": f"prompt{number}" for number in range(40)}


def test_a_cheap_coin_does_not_take_the_place_of_a_mode_that_is_better_than_one() -> None:
    """30 against 22 of 40 right: not far enough apart to tell, but the second alone could be a coin."""
    tried = modes_of((30, 100), (22, 1))
    tried[1] = tried[1]._replace(choosing={f"p{number}": float(number >= 18) for number in range(40)})
    found = choose(tried, EACH_ITS_OWN, Bootstrap())
    assert (found.close, found.rivals, found.picked) == (True, False, "m0")
    worthless = [tried[0]._replace(choosing=outcomes(23)), tried[1]]
    found = choose(worthless, EACH_ITS_OWN, Bootstrap())
    assert (found.close, found.rivals, found.picked) == (True, True, "m1")


@pytest.mark.parametrize(
    ("costs", "picked"),
    [(((1, 50, 0), (1, 40, 0)), "m1"), (((1, 40, 20), (1, 50, 0)), "m1"), (((3, 0, 0), (2, 0, 0)), "m1")],
)
def test_cheaper_is_fewer_tokens_read_and_written_then_fewer_requests(
    costs: tuple[tuple[int, int, int], ...], picked: str
) -> None:
    tried = [ModeTrial(f"m{i}", outcomes(35), outcomes(35), Cost(*cost)) for i, cost in enumerate(costs)]
    assert choose(tried, EACH_ITS_OWN, Bootstrap()).picked == picked
    assert choose(tried[::-1], EACH_ITS_OWN, Bootstrap()).picked == picked


def test_the_lead_is_paired_and_clustered() -> None:
    """The second is wrong on one more prompt than the first: pairing sees just that. Ten pairs of a prompt are one."""
    tried = modes_of((30, 1), (29, 1))
    found = choose(tried, EACH_ITS_OWN, Bootstrap())
    assert found.lead is not None and found.lead.value == pytest.approx(1 / 40)
    alone = choose(tried[:1], EACH_ITS_OWN, Bootstrap())
    assert (alone.lead, alone.close, alone.picked) == (None, False, "m0") and alone.flattery == pytest.approx(
        0, abs=0.01
    )
    wide = choose(modes_of((30, 1), (10, 1)), EACH_ITS_OWN, Bootstrap())
    few = choose(modes_of((30, 1), (10, 1)), {p: f"prompt{int(p[1:]) // 10}" for p in EACH_ITS_OWN}, Bootstrap())
    assert not wide.close and few.close


# ------------------------------------------------------------------------------------------------ what is named


def test_a_name_is_the_recipes_own_mode_of_that_kind_or_the_default() -> None:
    own = ReasonedMode(reasons=3)
    assert parse_modes(["reasoned, contrast"], own) == (ContrastMode(), own)
    assert parse_modes(["compare", "{kind: contrast, length: mean}", "contrast"], own) == (
        CompareMode(),
        ContrastMode(),
        ContrastMode(length="mean"),
    )
    assert set(DEFAULTS) == {"compare", "reasoned", "score", "checklist", "contrast", "rank"}
    assert mode_name(ContrastMode(length="mean", against=ScriptedModel(model="a:b"))) == (
        "contrast length=mean against=a:b"
    )
    members = (PanelMember(name="one"), PanelMember(name="two", mode=ChecklistMode()))
    assert mode_name(PanelMode(members=members)) == "panel mean of one, two"
    assert parse_modes(["panel,compare"], PanelMode(members=members)) == (CompareMode(), PanelMode(members=members))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare"], r"--modes: name at least two, to choose one of them \(got compare\)"),
        (["compare,contrat"], "--modes: no mode 'contrat'; did you mean 'contrast'"),
        (["compare,,contrast"], "--modes: no mode ''; valid choices: checklist, compare"),
        (["compare,compare"], "--modes: compare is there twice"),
        (["contrast", "{kind: contrast, length: sum}"], "--modes: contrast is there twice"),
        (["compare,revise"], "--modes: not revise: it compares nothing"),
        (["compare", "{kind: revise}"], "--modes: not revise: it compares nothing"),
        (["compare,panel"], "--modes: not panel: a panel has members; write it as"),
        (["compare,auto"], "--modes: not auto: which mode that is the audit is to find out"),
        (["compare", "{kind: auto}"], "mode: no kind 'auto'"),
        (["compare", "{kind: contrast, lenght: mean}"], "mode.lenght: no such key; did you mean 'length'"),
        (["compare", "{kind: contrast, tau: -1}"], r"mode\.tau: .*greater than 0.*\(got -1\)"),
        (["compare", "{kind: contrast"], "not valid YAML"),
        (["compare", "{length: mean}"], "mode: must say its 'kind'"),
    ],
)
def test_words_that_name_no_modes_are_one_clear_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_modes(words, CompareMode())
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- a recipe says auto


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    """An audit that chose contrast with settings of its own."""
    folder = tmp_path_factory.mktemp("chosen")
    modes = ["compare,checklist", "{kind: contrast, length: mean, tau: 2.0}"]
    return audit(folder, tosses(120, 12, compare=0.6, checklist=0.6, contrast=0.95), modes=modes)


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    """One that chose none."""
    return audit(tmp_path_factory.mktemp("hopeless"), tosses(60, 13, compare=0.5, checklist=0.5, contrast=0.5))


def auto(audited: AuditResult | Path, *overrides: str) -> list[str]:
    file = audited if isinstance(audited, Path) else audited.file
    return ["label.mode.kind=auto", f"label.audit.file={file}", *overrides]


def test_auto_is_the_mode_that_the_audit_chose_and_a_line_says_why(
    chosen: AuditResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = planned_recipe(tmp_path, *auto(chosen, "seed=3"))
    assert recipe.label.mode == ContrastMode(length="mean", tau=2.0)
    name, found = "contrast length=mean tau=2.0", rows(chosen)["contrast length=mean tau=2.0"]["agreement"]
    said = capsys.readouterr().out
    assert said.startswith(f"label.mode: {name}, by audit {chosen.file}: agreement ")
    assert said.endswith(f"on {found['n']} pairs that did not choose\n")
    assert f"agreement {100 * found['value']:.0f}%" in said
    assert check_requirement(recipe) is None
    planned_recipe(tmp_path, *auto(chosen, "seed=4"))
    assert capsys.readouterr().out == ""  # once is enough: a study loads one for each arm and seed


def test_the_label_stage_judges_in_that_mode(chosen: AuditResult, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    texts = ("contrast=+ one", "contrast=- two", "contrast=- three")
    write_jsonl(run.responses, [response(prompt(0), text, index) for index, text in enumerate(texts)])
    recipe = planned_recipe(tmp_path, *auto(chosen, "label.audit.calibrate=temperature"))
    label(recipe, run)
    judgments = read_jsonl(run.judgments, Judgment)
    assert {judgment.provenance.template for judgment in judgments if judgment.provenance} == {"contrast"}
    assert len(judgments) == 3 and sum(abs(judgment.p_a - 0.5) > 0.1 for judgment in judgments) == 2


def test_a_run_keeps_the_mode_itself(chosen: AuditResult, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    recipe = planned_recipe(tmp_path, *auto(chosen))
    run.claim(recipe)
    assert "kind: contrast" in run.recipe.read_text() and "kind: auto" not in run.recipe.read_text()
    assert load_recipe(str(run.recipe)) == recipe


def test_what_an_override_says_later_holds(chosen: AuditResult, tmp_path: Path) -> None:
    first = [*planned_words(tmp_path, *auto(chosen))]
    named = load_recipe("quickstart", first, ["label.mode.kind=checklist"])
    assert named.label.mode == ChecklistMode()
    again = load_recipe("quickstart", first, ["label.mode={kind: score}"], ["label.mode={kind: auto}"])
    assert again.label.mode == ContrastMode(length="mean", tau=2.0)


def test_an_arm_of_a_study_may_say_auto(chosen: AuditResult, tmp_path: Path) -> None:
    study = {
        "schema": "rlaif/study/v1",
        "name": "s",
        "recipe": "quickstart",
        "overrides": planned_words(tmp_path),
        "arms": {"rlaif": {}, "asked": {"kind": "rlaif", "overrides": auto(chosen)}},
    }
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(study))
    found = load_study(file)
    assert recipe_of(found, "rlaif", 0).label.mode.kind == "compare"
    assert recipe_of(found, "asked", 0).label.mode.kind == "contrast"
    assert "valid" in check_file(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"label.audit": None},
            r"label\.mode\.kind: auto takes the mode that an audit chose, and label\.audit names none",
        ),
        ({"label.audit.file": "nowhere.json"}, r"nowhere\.json: no such file; make it with: rlaif audit .* --modes "),
        ({"label.audit.file": 3}, r"label\.audit\.file: .*string"),
        ({"label.audit": "x"}, r"label\.audit: a section of keys and values"),
        ({"label.mode.template": "compare"}, r"label\.mode\.template: no such key"),
    ],
)
def test_auto_without_an_audit_is_one_clear_line(
    chosen: AuditResult, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    words = [f"{key}={json.dumps(value)}" for key, value in change.items()]
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe("quickstart", planned_words(tmp_path), auto(chosen), words)
    assert "\n" not in str(caught.value)


def test_an_audit_that_chose_nothing_is_refused_with_advice(
    chosen: AuditResult, hopeless: AuditResult, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"chose none\. No mode is proposed: .* Audit with more labels, with another"):
        planned_recipe(tmp_path, *auto(hopeless))
    for changed, said in [
        ({key: value for key, value in chosen.audit.items() if key != "modes"}, "compared no modes; make one"),
        (chosen.audit | {"modes": {"chosen": {"name": "x"}}}, r"modes\.chosen is not what `rlaif audit` writes: mode"),
        (
            chosen.audit | {"modes": {"chosen": {"name": "x", "mode": {"kind": "auto"}, "reason": ""}}},
            r"modes\.chosen is not what",
        ),
        ({}, "is not what `rlaif audit` writes"),
    ]:
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=said):
            planned_recipe(tmp_path, *auto(file))


def test_an_audit_of_another_judge_or_constitution_does_not_pass(chosen: AuditResult, tmp_path: Path) -> None:
    other = planned_recipe(tmp_path, *auto(chosen, "judge.model=tests.tried_modes:first_come"))
    with pytest.raises(ConfigError, match=r"is about another judge, mode or constitution: judge\.model"):
        check_requirement(other)
    rules = CONSTITUTION.replace("Which response is better?", "Which one is better?")
    with pytest.raises(ConfigError, match=r"constitution\.hash"):
        check_requirement(planned_recipe(tmp_path, *auto(chosen), constitution=rules))


def test_the_sections_that_need_a_mode_see_the_one_that_was_chosen(chosen: AuditResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.loss\.kind is 'regression'"):
        planned_recipe(tmp_path, *auto(chosen, "reward.loss.kind=regression"))


def test_the_schema_for_editors_knows_auto() -> None:
    assert "AutoMode" in json_schema("recipe")["definitions"]


# --------------------------------------------------------------------------------------------- the command line


def test_the_command_line_from_audit_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """A recipe that says auto is audited before there is an audit, and is valid afterwards."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    write_plan(tmp_path / "gold.jsonl", tosses(120, 14, compare=0.6, checklist=0.95, contrast=0.6))
    write_plan(tmp_path / "coins.jsonl", tosses(80, 15, compare=0.5, checklist=0.5, contrast=0.5))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "name: mine\nconstitution: planned.yaml\npolicy: {backend: local, model: smollm2-135m}\n"
        "judge: {backend: scripted, model: 'tests.tried_modes:planned'}\nevaluate: {bootstrap_samples: 200}\n"
        "prompts: {sources: [{kind: file, path: everyday}]}\n"
        "label: {mode: {kind: auto}, audit: {file: a/audit.json}}\n"
    )
    (tmp_path / "planned.yaml").write_text(CONSTITUTION)
    code, _, err = cli("check", "mine.yaml")
    assert code == 2 and "a/audit.json: no such file; make it with: rlaif audit RECIPE --gold FILE --modes" in err
    words = ["audit", "mine.yaml", "--modes", "compare,checklist", "--modes", "{kind: contrast}", "--probe-pairs", "0"]
    code, out, _ = cli(*words, "--gold", "coins.jsonl", "--out", "a")
    assert code == 0 and "No mode is proposed: none of" in out  # a proposal is no gate
    code, out, _ = cli(*words, "--gold", "coins.jsonl", "--out", "a", "--gate", "accuracy.low=0.5")
    assert code == 1 and "gate: accuracy.low" in out
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["audited"]["mode"]["kind"] == "compare"
    code, out, _ = cli(*words, "--gold", "gold.jsonl", "--out", "a")
    assert code == 0 and "Proposed: checklist. On " in out
    code, out, _ = cli("check", "mine.yaml")
    assert code == 0 and "label.mode: checklist, by audit a/audit.json: agreement " in out and "valid" in out
    code, _, err = cli(*words[:2], "--modes", "compare", "--gold", "gold.jsonl")
    assert code == 2 and "name at least two" in err
