"""From preferences to a policy: the reward model and the optimisers. Read `losses/` first, then `optimise/loop.py`."""
