"""Training on texts that are there: supervised fine-tuning and direct preference optimisation on one loop."""
