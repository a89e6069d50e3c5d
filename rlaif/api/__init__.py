"""What `import rlaif` offers, in four files: `inputs.py` (what callers hand in), `judging.py`, `reward.py`, `runs.py`.

Everything here calls what the command line calls; no work is done twice.
"""
