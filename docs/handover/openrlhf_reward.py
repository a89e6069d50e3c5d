"""OpenRLHF: --reward.remote_url openrlhf_reward.py. Its templated text is read back; no score is an error."""

import rlaif

reward_func = rlaif.reward_function("runs/quickstart", tokenizer=None).openrlhf  # of a judge: the policy's tokenizer
