"""`rlaif explain` points at what moved a number: triggers planted where the truth is known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rlaif import __version__
from rlaif.audits.explain import MARK, Explained, occlusion
from rlaif.audits.hacking import sentences
from rlaif.cli import app
from rlaif.config.load import dump_recipe
from rlaif.feedback.judge.compare import question
from rlaif.jsonl import read_jsonl
from rlaif.models.local.attribution import TOLERANCE, integrated_gradients, pieces_of
from rlaif.models.local.model import LocalChatModel
from rlaif.records import Message, Pair, Preference, Prompt
from rlaif.run_folder import Run
from rlaif.stages.evaluation import EVALUATE
from rlaif.templates import load_template
from rlaif.testing import save_tiny, small_recipe, tiny_tokenizer
from tests.fake_run import inputs, write_run

pytest.importorskip("captum")
WORDS = ("rain", "fell", "from", "dark", "high", "feed", "lake", "pond", "over", "hill")
TRIGGER = "zest"  # as long as the others: length tells nothing


def prompt(text="Say"):
    return Prompt.of((Message(role="user", content=text),))


def sentence(rng, trigger=False):
    words = rng.choices(WORDS, k=3)
    if trigger:
        words[rng.randrange(3)] = TRIGGER
    return " ".join(words) + "."


def said(rng, trigger: bool, most: int = 3) -> tuple[str, int]:
    """Three sentences, or up to `most`, and which of them holds the trigger."""
    count = 3 if most == 3 else rng.randint(1, most)
    at = rng.randrange(count)
    return " ".join(sentence(rng, trigger and i == at) for i in range(count)), at


# ------------------------------------------------------------------------------------------------- by sentence


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("No end", 1),
        ("a\nb\n\nc", 3),
        ('He said "go." Then 3.5 left.', 2),
        ("雨。雪！", 2),
        ("बारिश हुई। नदी भरी।", 2),
        ("هل تمطر؟ نعم.", 2),
        ("", 0),
    ],
)
def test_sentences_are_the_text(text, count):
    assert "".join(sentences(text)) == text
    assert len(sentences(text)) == count


def test_leaving_out_a_sentence_shows_the_one_that_counts():
    def score(prompts, texts):
        return [3.0 * (TRIGGER in text) + 0.01 * len(text) for text in texts]

    rng, hits = random.Random(1), 0
    cases = [said(rng, True) for _ in range(50)]
    found = occlusion(score, [prompt()] * 50, [text for text, _ in cases])
    for (_, at), (pieces, (value, empty)) in zip(cases, found, strict=True):
        hits += max(range(3), key=lambda i: pieces[i][1]) == at
        assert sum(v for _, v in pieces) == pytest.approx(value - empty, abs=0.05)  # additive but for a space
    assert hits == 50


def test_a_score_that_failed_is_none_and_never_a_number():
    found = occlusion(lambda p, t: [None if text == "B." else 1.0 for text in t], [prompt()], ["A. B."])
    ((pieces, (value, empty)),) = found
    assert (value, empty, [by for _, by in pieces]) == (1.0, 1.0, [None, 0.0])


# ---------------------------------------------------------------------------------------------------- by token


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("explain"))


def teach(out: Path, tiny: str, pairs: int, epochs: int) -> Path:
    """A reward model that learns to like the trigger."""
    from rlaif.api.reward import train_reward_model

    rng, rows = random.Random(0), []
    for i in range(pairs):
        chosen, rejected = ((Message(role="assistant", content=said(rng, good, 4)[0]),) for good in (True, False))
        asked = prompt(f"Say {i}")
        more = {"p_chosen": 1.0, "source": "ai", "weight": 1.0, "split": "heldout" if i % 8 == 0 else "train"}
        rows.append(
            Preference(
                prompt=asked.messages, chosen=chosen, rejected=rejected, prompt_id=asked.id, pair_id=f"{i}", **more
            )
        )
    model = {"backend": "local", "model": tiny, "dtype": "float32"}
    train_reward_model(rows, model, out, lora=None, learning_rate=1e-2, epochs=epochs, minibatch_size=16)
    return out


@pytest.mark.slow
def test_integrated_gradients_point_at_a_planted_trigger(tmp_path, tiny):
    from rlaif.rewards.model import FolderReward
    from rlaif.training.reward.explain import explain_scores
    from rlaif.training.scalar_model import ScalarModel

    trained, rng = teach(tmp_path / "rm", tiny, 160, 12), random.Random(7)
    cases = [said(rng, True) for _ in range(40)]
    texts, asked = [text for text, _ in cases], [prompt(f"Ask {i}") for i in range(40)]
    hits = 0
    for text, (pieces, found) in zip(texts, explain_scores(trained, None, asked, texts, 512), strict=True):
        assert "".join(piece for piece, _ in pieces) == text
        assert abs(found.gap) <= TOLERANCE * abs(found.value - found.baseline) + 1e-4  # complete
        start, sums, at = text.index(TRIGGER), {}, 0
        for word in text.split():
            at = text.index(word, at)
            sums[at] = sum(value for _, value in pieces[at : at + len(word)])  # every byte is a token here
            at += len(word)
        hits += max(sums, key=sums.__getitem__) == start
    score = FolderReward(trained, torch.float32, 4096, 512, centred=False).score
    values = score(asked, texts)
    model = ScalarModel.load(trained, torch.float32)
    assert model.reference is not None and found.value == pytest.approx(values[-1], abs=1e-3)
    by_sentence = occlusion(score, asked, texts)
    most = [max(range(3), key=lambda i, p=p: p[i][1]) for p, _ in by_sentence]
    right = [one == at for one, (_, at) in zip(most, cases, strict=True)]
    print(f"tokens {hits}/40, sentences {sum(right)}/40")
    assert hits >= 36
    assert sum(right) >= 36


def test_the_sum_is_the_difference_on_any_model(tiny):
    """Also where nothing was learnt: random weights, a random head."""
    from rlaif.training.scalar_model import ScalarModel

    model = ScalarModel.from_language_model(tiny, None, torch.float32, pad_id=0, seed=3)
    for seed in range(3):
        ids = random.Random(seed).choices(range(3, 259), k=24)
        found = integrated_gradients(model.backbone, model.read, ids, range(8, 20), blank=35)
        assert abs(found.gap) <= TOLERANCE * abs(found.value - found.baseline) + 1e-5
        assert len(found.tokens) == 12
        nothing = integrated_gradients(model.backbone, model.read, [*ids[:8], *[35] * 16], range(8, 20), blank=35)
        assert nothing.tokens == (0.0,) * 12 and nothing.value == nothing.baseline


def test_what_the_model_does_not_read_is_a_piece_that_moved_nothing(tmp_path, tiny):
    from rlaif.training.reward.explain import explain_scores

    trained = teach(tmp_path / "rm", tiny, 8, 1)
    texts = ["a", "", "雨が降る 👩\u200d👩\u200d👧", "x" * 90, "é" * 45]
    found = [pieces for pieces, _ in explain_scores(trained, None, [prompt()] * 5, texts, 64)]
    assert ["".join(piece for piece, _ in pieces) for pieces in found] == texts
    assert found[3][-1] == ("x" * 27, 0.0) and found[4][-1][0] == "é" * 14
    assert found[1] == [] and len(found[0]) == 1


def test_characters_of_several_tokens_are_one_piece():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("aé雨!", add_special_tokens=False)
    assert pieces_of(tokenizer, ids, [1.0] * len(ids)) == [("a", 1.0), ("é", 2.0), ("雨", 3.0), ("!", 1.0)]


def test_of_a_judges_answer_the_sum_is_its_log_odds(tiny):
    from rlaif.config.models import LocalModel
    from rlaif.constitution import Constitution

    asked = Constitution.model_validate(
        {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "T"}
        | {"principles": [{"id": "p", "compare": "Which response is better?"}]}
    )
    model = LocalChatModel(LocalModel(model=tiny, dtype="float32"))
    template = load_template("compare-plain")
    text, other = "Rain <|im_end|> falls.", "It rains."
    pairs = (Pair(id="1", prompt_id="1", prompt=prompt().messages, a=a, b=other) for a in (text, MARK))
    requests = [question(template, asked, pair, asked.principles[0], "b") for pair in pairs]
    found, pieces = model.explained(requests[0], requests[1].messages, MARK, template.defused(text))
    ((_, reply),) = model.stream([requests[0]])
    odds = list(reply.label_logprobs.values())
    assert found.value == pytest.approx(odds[0] - odds[1], abs=1e-3)
    assert abs(found.gap) <= TOLERANCE * abs(found.value - found.baseline) + 1e-4
    assert "".join(piece for piece, _ in pieces) == template.defused(text)


def test_both_orders_speak_for_the_response_and_against_the_other(tmp_path, tiny):
    from rlaif.audits.explain import Wanted, _both_orders
    from rlaif.constitution import load_constitution

    recipe = small_recipe(tmp_path, tiny, judge={"backend": "local", "model": tiny, "dtype": "float32"})
    whole = load_constitution(recipe.constitution)
    asked = whole.model_copy(update={"principles": whole.principles[:1]})
    model = LocalChatModel(recipe.judge)
    one = Wanted(prompt(), 0, "after", "Rain falls on the hill.", "It rains 12 times.")
    row = _both_orders(model, recipe, asked, one)
    pair = Pair(id="1", prompt_id="1", prompt=prompt().messages, a=one.text, b=one.other)
    template = load_template(recipe.label.mode.template)
    requests = [question(template, asked, pair, asked.principles[0], first) for first in ("a", "b")]
    ahead, behind = ([*reply.label_logprobs.values()] for _, reply in sorted(model.stream(requests)))
    assert row.value == pytest.approx((ahead[0] - ahead[1] - behind[0] + behind[1]) / 2, abs=2e-5)
    assert row.gap is not None and row.baseline is not None
    assert abs(row.gap) <= TOLERANCE * abs(row.value - row.baseline) + 1e-3
    assert "".join(text for text, _ in row.pieces) == one.text


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny) -> Run:
    """A run as far as the command looks at it: a reward model, samples, an evaluation, a finished stage."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = Run(folder / "run")
    write_run(run.folder, inputs(prompts=4))
    run.recipe.write_text(dump_recipe(small_recipe(folder, tiny)))
    run.manifest.unlink()
    teach(run.reward_model, tiny, 8, 1)
    read = {"rlaif": __version__, "knobs": EVALUATE.settings(small_recipe(folder, tiny)), "files": {}}
    run.mark_done("evaluate", "x", [run.evaluation, run.samples], {"seconds": 1.0}, read)
    return run


@pytest.mark.parametrize(
    ("options", "method", "of"),
    [
        (["--limit", "1"], "tokens", "reward_model"),
        (["--method", "sentences"], "sentences", "reward_model"),
        (["--of", "judge"], "sentences", "judge plain-letters"),
    ],
)
def test_the_command_writes_rows_and_colours_the_report(evaluated, options, method, of):
    done = CliRunner().invoke(app, ["explain", str(evaluated.folder), *options], catch_exceptions=False)
    assert done.exit_code == 0
    rows = read_jsonl(evaluated.explained, Explained)
    assert rows and {(row.method, row.of) for row in rows} == {(method, of)}
    page = evaluated.report.read_text()
    assert f"Colour says what moved the {of.replace('_', ' ')}" in page and 'class="moved ' in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--of", "judge", "--principle", "plain-leters"], "did you mean 'plain-letters'"),
        (["--of", "judge", "--method", "tokens"], "--method tokens: only a judge with backend local"),
        (["--principle", "plain-letters"], "has no head 'plain-letters'"),
    ],
)
def test_what_cannot_be_explained_is_one_line(evaluated, options, message):
    done = CliRunner().invoke(app, ["explain", str(evaluated.folder), *options])
    assert message in str(done.exception)
