"""Judge templates: load one, check it, and render what is graded into the messages that the judge reads.

A template is a Jinja file, rendered in a sandbox, with a block `user` and, if it wants one, a block `system`; some
kinds have a block for a second turn, and `labels` may name what the judge replies with. `shapes.py` lists the kinds,
`load.py` reads, `checks.py` refuses, `template.py` renders. The graded text is data: it is never evaluated, and
`guard.py` keeps it inside its delimiters. See prompts/judge/compare.jinja for an example.
"""

from rlaif.templates.load import load_template
from rlaif.templates.shapes import SHAPES, Kind
from rlaif.templates.template import JudgeTemplate

__all__ = ["SHAPES", "JudgeTemplate", "Kind", "load_template"]
