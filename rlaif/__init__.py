"""rlaif: reinforcement learning from AI feedback, from a written constitution to a trained policy.

Start with `rlaif/pipeline.py`, which is the whole recipe on one screen, then `rlaif/records/`, which names
every kind of row that passes between the stages.
"""

__version__ = "0.1.0"
