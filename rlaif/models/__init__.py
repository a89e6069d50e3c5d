"""Who writes text: one protocol (`chat.py`) and its implementations."""
