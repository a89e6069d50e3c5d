"""TRL: GRPOTrainer(reward_funcs=reward, ...), RLOOTrainer, OnlineDPOTrainer. No score is None, which TRL leaves out."""

import rlaif

reward = rlaif.reward_function("runs/quickstart")  # a run, a reward model's folder, or a constitution and its judge:
# reward = rlaif.reward_function("helpfulness", "http://127.0.0.1:8000/v1#Qwen/Qwen3-8B", mode="checklist")
