"""From prompts to preferences: `prompts`, `sample`, `pairs`, `judge`, `human`, `mix`, and `pairs` again.

Nothing here trains or loads a model. Read `verdict.py` first: the mathematics that every AI label rests on.
"""
