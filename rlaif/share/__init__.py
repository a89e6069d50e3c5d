"""What a run made, for others: model and data set cards, and the way to a hub.

`contents.py` says which files go and what may not be in them, `model_card.py` and `dataset_card.py` write their
README.md from `facts.py`, `parent.py` finds the licence, `push.py` sends them. Nothing here measures anything, and no
file of the run folder changes.
"""
