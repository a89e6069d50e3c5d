"""In the project's environment: a tiny policy, a tiny reward model, its scores, and preferences with two splits."""

from __future__ import annotations

import json

import rlaif
from rlaif.jsonl import write_jsonl
from rlaif.testing import save_tiny
from tests.peers.common import MODEL, POLICY, PREFERENCES, WORK

save_tiny(POLICY, num_hidden_layers=1)
pairs = [(f"Say {n}", "letters" + "x" * (n % 5), "0123" + "9" * (n % 7)) for n in range(24)]
rows = rlaif.preferences(
    rlaif.judge(pairs, "plain-and-brief", "scripted:rlaif.testing:likes_letters"), heldout_share=0.3, tie_margin=0.0
)
write_jsonl(PREFERENCES, rows)
model = rlaif.train_reward_model(rows, str(POLICY), MODEL, lora=None, epochs=2, minibatch_size=8)
asked = [("Say it", "letters"), ("Say it", "0123")]
values = rlaif.RewardModel.load(MODEL).score(asked)
(WORK / "wanted.json").write_text(json.dumps({"|".join(one): value for one, value in zip(asked, values, strict=True)}))
