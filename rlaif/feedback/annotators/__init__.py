"""Annotators are fallible, people and judges alike: what is known of each, whom to leave out, and what to make of the
labels that are left. `simulate.py` makes crews of known faults to try it on.

    judgments + gold -> credibility -> removal -> aggregate -> one judgment per pair      (`trust.py` joins them)
"""
