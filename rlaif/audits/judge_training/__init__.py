"""`rlaif judge train`: labelled pairs in, a judge out whose own answers come out as the labels say.

`labels.py` reads what people or another judge said and keeps prompts apart, `material.py` makes the requests of judging
into lessons, `command.py` runs it all, `record.py` is judge.json, and `worth.py` the audit before and after. The
training itself is in `training/judge/`.
"""
