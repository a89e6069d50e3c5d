"""verl's data set on our export, its naive reward manager with our compute_score, its client against /classify."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.dataset.rl_dataset import RLHFDataset

from tests.peers.common import MODEL, WORK, close, done, export, served, wanted

tokenizer = AutoTokenizer.from_pretrained(MODEL)
file = export("verl", "verl.parquet")
data = RLHFDataset(
    str(file), tokenizer, OmegaConf.create({"filter_overlong_prompts_workers": 1, "cache_dir": str(WORK)})
)
assert len(data) > 0
row = data[0]
assert row["extra_info"]["prompt"] and row["reward_model"]["ground_truth"] and row["data_source"] == "rlaif"

own = WORK / "verl_score.py"
own.write_text(f"import rlaif\n\ncompute_score = rlaif.reward_function({str(MODEL)!r}).verl\n")
prompt = [{"role": "user", "content": "Say it"}]
answer = tokenizer("letters" + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt")["input_ids"]
asked = torch.ones((1, 4), dtype=torch.long)
batch = TensorDict(
    {"prompts": asked, "responses": answer, "attention_mask": torch.ones((1, 4 + answer.shape[1]), dtype=torch.long)},
    batch_size=1,
)
row["extra_info"] = {**row["extra_info"], "prompt": prompt}
rest = {key: np.array([row[key]], dtype=object) for key in ("data_source", "reward_model", "extra_info")}
item = DataProto(batch=batch, non_tensor_batch=rest | {"raw_prompt": np.array([prompt, None], dtype=object)[:1]})
function = {"path": str(own), "name": "compute_score", "reward_kwargs": {}}
manager = {"source": "register", "name": "naive"}
config = OmegaConf.create({"reward": {"custom_reward_function": function, "reward_manager": manager}})


async def managed() -> dict[str, float]:
    return await load_reward_manager(config, tokenizer).run_single(item)


found = asyncio.run(managed())
close(found["reward_score"], wanted(), "compute_score")

with served() as url:
    for engine in ("vllm", "sglang"):
        rollout = {"name": engine}
        settings = OmegaConf.create({"reward": {"reward_model": {"model_path": str(MODEL), "rollout": rollout}}})
        worker = SimpleNamespace(
            config=settings,
            reward_router_address=url.removeprefix("http://"),
            input_tokenizer=tokenizer,
            reward_model_tokenizer=tokenizer,
        )
        for name in ("_post_request", "_preprocess_reward_inputs", "compute_score_disrm"):
            setattr(worker, name, getattr(RewardLoopWorker, name).__get__(worker))
        close(asyncio.run(worker.compute_score_disrm(item))["reward_score"], wanted(), engine)
done("RLHFDataset", "naive reward manager with compute_score", "discriminative client: /classify, /v1/embeddings")
