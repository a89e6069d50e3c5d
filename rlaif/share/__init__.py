"""What a run made, for others: model and data set cards, and the way to a hub.

`contents.py` says which files go and what may not be in them, `card.py` writes their README.md, `parent.py` finds the
licence, `push.py` sends them. Nothing here measures anything, and no file of the run folder changes.
"""
