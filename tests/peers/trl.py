"""TRL: GRPO with our reward function and with our saved reward model; RewardTrainer and DPOTrainer on our exports."""

from __future__ import annotations

from datasets import Dataset, load_dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

import rlaif
from tests.peers.common import MODEL, POLICY, WORK, done, export

SMALL = {"max_steps": 1, "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True, "save_strategy": "no"}
prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"Say {n}"}]} for n in range(8)])
for name, reward in (("function", rlaif.reward_function(MODEL)), ("model", str(MODEL))):
    settings = GRPOConfig(
        str(WORK / f"grpo-{name}"), num_generations=4, max_completion_length=8, logging_steps=1, **SMALL
    )
    trainer = GRPOTrainer(str(POLICY), reward, settings, prompts)
    trainer.train()
    logged = next(row for row in trainer.state.log_history if "reward" in row)
    assert logged["reward"] == logged["reward"], logged  # not NaN
    print(name, logged["reward"])

implicit = load_dataset("json", data_files=str(export("trl-implicit", "trl-implicit.jsonl")), split="train")
RewardTrainer(str(POLICY), RewardConfig(str(WORK / "trl-rm"), **SMALL), train_dataset=implicit).train()
explicit = load_dataset("json", data_files=str(export("trl", "trl.jsonl")), split="train")
DPOTrainer(str(POLICY), args=DPOConfig(str(WORK / "trl-dpo"), **SMALL), train_dataset=explicit).train()
done("GRPOTrainer with reward_function and with the saved reward model", "RewardTrainer", "DPOTrainer, a step each")
