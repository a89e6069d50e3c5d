"""verl: reward.custom_reward_function.path=verl_score.py. The prompt is read from extra_info; no score is an error."""

import rlaif

compute_score = rlaif.reward_function("runs/quickstart").verl  # verl loads a copy into each of its reward.num_workers
