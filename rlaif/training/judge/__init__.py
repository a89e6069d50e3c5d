"""A judge that learns: pairs and what labels say of them in, a model whose own answers come out so.

`lessons.py` says what is learnt, `methods.py` what a mode makes of the model's numbers, `loop.py` trains, and
`inside.py` is the judge as it stands, to be asked like any other. The losses are in `losses/judge.py`.
"""
