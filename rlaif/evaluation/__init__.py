"""Was it worth it: how far the judge and the reward model can be trusted, and what training changed.

Nothing here loads a model: everything is computed from records and numbers that other stages wrote. Read
`agreement.py` and `winrate.py` for what is measured, then `evaluate.py`, which puts evaluation.json together.
"""
