"""Who writes text: one protocol (`engine.py`) and its implementations."""
