"""A judge that learns: `lessons.py` says what, `loop.py` trains. The losses are in `losses/judge.py`."""
