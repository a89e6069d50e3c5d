"""What each stage reads, does and writes: read files, call the layers below, write files atomically.

Read `pipeline.py` for the order. Nothing is decided here that a layer below could decide.
"""

from rlaif.stages.evaluation import evaluate, report
from rlaif.stages.feedback import label, sample
from rlaif.stages.optimise import optimise
from rlaif.stages.pairs import pairs
from rlaif.stages.reward import reward

__all__ = ["evaluate", "label", "optimise", "pairs", "report", "reward", "sample"]
