"""Arms over seeds on one pipeline, and what can be said of them: AI feedback against human feedback.

    study.yaml -> arms/<arm>/seed-<n>/   runs of one recipe that differ in where their feedback comes from
               -> contest/               all arms' answers to held-out prompts, judged against each other
               -> comparison.json/.html  the figures, and the page

Read `run.py` first.
"""
