"""Methods that learn from their own rollouts: PPO, REINFORCE, RLOO, GRPO."""
