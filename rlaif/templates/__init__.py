"""Judge templates: load one, check it, and render what is graded into the messages that the judge reads.

A template is a Jinja file, rendered in a sandbox, with a block `user` and, if it wants one, a block `system`; some
kinds have a block for a second turn, and `labels` may name what the judge replies with. `checks.py` lists the kinds
and refuses, `template.py` reads and renders. The graded text is data: it is never evaluated, and `guard.py` keeps it
inside its delimiters. See prompts/judge/compare.jinja for an example.
"""

from rlaif.templates.checks import SHAPES, Kind
from rlaif.templates.template import JudgeTemplate, load_template

__all__ = ["SHAPES", "JudgeTemplate", "Kind", "load_template"]
