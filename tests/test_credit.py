"""`optimise.credit` moves a score from the last token to those that made it, and changes no total."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.config.optimise import AttributionCredit, Ppo
from rlaif.config.training import Lora
from rlaif.models.local.attribution import TOLERANCE
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import turn_of
from rlaif.testing import small_recipe
from rlaif.training.optimise.estimators import State, kl_of, ppo
from rlaif.training.reward.explain import by_attribution
from rlaif.training.scalar_model import ScalarModel, as_ended
from tests.test_optimise_estimators import by_hand

pytest.importorskip("captum")


@given(st.lists(st.floats(-50, 50), min_size=12, max_size=12), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_total_of_a_response_is_the_same_whatever_the_credit_says(credit, kl_coef):
    plain = by_hand()
    rows, width = plain.mask_BT.shape
    credit_BT = torch.tensor((credit * width)[: rows * width]).view(rows, width) * plain.mask_BT
    plain = by_hand(values_BT=torch.zeros(rows, width))
    spread = by_hand(values_BT=torch.zeros(rows, width), credit_BT=credit_BT)
    section, state = Ppo(whiten_advantages=False, missing_eos_penalty=0.0), State(kl_coef)
    one, other = ppo(plain, section, state), ppo(spread, section, state)
    torch.testing.assert_close(one.reward_B, other.reward_B, atol=1e-3, rtol=1e-5)
    assert torch.equal(kl_of(plain), other.kl_BT)
    if credit_BT[:, :-1][plain.mask_BT[:, 1:]].abs().max() > 1:  # the last token gets the rest in any case
        assert not torch.equal(one.advantages_BT, other.advantages_BT)


@pytest.fixture
def rewarded(tiny_folder):
    return ScalarModel.from_language_model(tiny_folder, None, torch.float32, pad_id=0, seed=3), tiny_folder


def test_the_credit_of_rows_is_their_attribution_and_a_critics_adapter_is_off(rewarded):
    model, folder = rewarded
    tokenizer = load_tokenizer(folder)
    end = turn_of(tokenizer).written
    rows = [Row((1, 40, 41), (50, 60, 70, *end)), Row((1, 40, 41, 42), (80, 90)), Row((1, 40), end)]
    credit = by_attribution([model], tokenizer, 64)(rows)
    assert credit.shape[0] == 3 and not credit[0, 3:].any() and not credit[1, 2:].any() and not credit[2].any()
    for row, own in zip(as_ended(rows, tokenizer)[:2], credit, strict=False):
        blank = [*row.response]
        body = turn_of(tokenizer).body(row.response)
        blank[: len(body)] = [tokenizer.encode(" ")[-1]] * len(body)
        whole, none = model.scores([row, Row(row.prompt, tuple(blank))]).tolist()
        assert float(own.sum()) == pytest.approx(whole - none, rel=2 * TOLERANCE, abs=1e-3)
    other = ScalarModel.from_language_model(folder, None, torch.float32, pad_id=0, seed=4)
    both = by_attribution([model, other], tokenizer, 64)(rows)
    torch.testing.assert_close(2 * both - credit, by_attribution([other], tokenizer, 64)(rows))
    critic = model.as_critic(Lora(rank=4, alpha=8.0), seed=0)
    for name, weight in critic.backbone.named_parameters():
        if "lora" in name.lower():
            torch.nn.init.normal_(weight, std=0.5)
    torch.testing.assert_close(by_attribution([model], tokenizer, 64)(rows), credit)


def test_credit_needs_the_runs_reward_model_and_is_in_no_recipe_without_it(tmp_path):
    with pytest.raises(ValidationError, match="credit is of the run's reward model"):
        Ppo(credit=AttributionCredit(), scoring={"kind": "length"})
    assert "credit" not in small_recipe(tmp_path, "tiny").model_dump(mode="json")["optimise"]
    asked = small_recipe(tmp_path, "tiny", optimise__credit={"kind": "attribution"})
    assert asked.model_dump(mode="json")["optimise"]["credit"] == {"kind": "attribution", "steps": 8}


@pytest.mark.slow
def test_a_run_with_credit_trains_and_says_the_same_scores_at_first(tmp_path, shallow_folder):
    """Before the first update nothing differs but what the tokens are told."""
    from rlaif.pipeline import run_recipe

    small = {"steps": 2, "rollouts_per_step": 8, "minibatch_size": 8}
    changes = {f"optimise__{key}": value for key, value in small.items()}
    one = small_recipe(tmp_path, shallow_folder, 40, prompts__heldout=8, **changes)
    other = small_recipe(
        tmp_path,
        shallow_folder,
        40,
        prompts__heldout=8,
        optimise__credit={"kind": "attribution", "steps": 4},
        **changes,
    )
    stages = ["sample", "label", "pairs", "reward", "optimise"]
    plain = run_recipe(one, tmp_path / "plain", stages).read_metrics("optimise")
    spread = run_recipe(other, tmp_path / "spread", stages).read_metrics("optimise")
    assert plain[0]["score"] == spread[0]["score"] and plain[0]["reward"] == pytest.approx(
        spread[0]["reward"], abs=1e-4
    )
    assert plain[1]["score"] != spread[1]["score"]
