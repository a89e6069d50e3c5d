"""The Reward door: what a response is worth, one value per text, by whatever the recipe names.

A reward is one class with one method, `measure`; `open.py` makes it from a section of the recipe. Rollouts, best-of-n,
evaluation, routing, studies and the public API all take the same road. A reward that failed for a text gives None,
never a number. To add one: its section in `config/scoring.py`, its class here, and a line in `open.py`.
"""
