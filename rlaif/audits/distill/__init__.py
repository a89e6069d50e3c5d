"""Inverse constitutional AI: from labelled pairs to the constitution that explains them (arXiv 2406.06560).

`propose.py` asks the judge why people preferred what they did, `merge.py` joins what says the same, `vote.py` tests
each candidate alone on pairs of other prompts, `select.py` keeps those that predict the labels, `command.py` does all
four and writes what came of it. What survives explains these labels; other constitutions may explain them as well.
"""

from rlaif.audits.distill.command import Distillation, distill_command
from rlaif.audits.distill.settings import DistillSettings

__all__ = ["DistillSettings", "Distillation", "distill_command"]
