"""From preferences to a policy: the reward model and PPO. Read `losses.py` first, then `ppo.py`."""
