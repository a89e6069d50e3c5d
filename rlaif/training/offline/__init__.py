"""Methods that learn from texts that are there: SFT, DPO."""
