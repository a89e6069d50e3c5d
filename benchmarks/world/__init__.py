"""A synthetic world where the truth is known, to prove the method on the code that real studies use. All SIMULATED.

    texts.py     the world on one screen: prompts, responses, and what they are truly worth
    labels.py    judges with known faults, and simulated people
    policies.py  the arms: real mixing of the labels, a linear reward model, policies that spend one KL budget
    truth.py     true win rates by enumeration, and the contest that estimates them

Nothing here trains a network or tells how good any real judge is. `benchmarks/known_truth.py` repeats it and prints the
table.
"""
