"""Descriptions of reasoning and tool calls in the output of model families: data, no code.

Reasoning and calls are described separately, since families combine them freely. The order matters:
the first description of calls whose signs are in a chat template is tried first. Sources: published
chat templates, and observed output of the models.
"""

from reconciler.worker.output.families.bare import BARE
from reconciler.worker.output.families.marked import MARKED
from reconciler.worker.output.families.messages import FUNCTIONARY, HARMONY
from reconciler.worker.output.families.reasoning import REASONING
from reconciler.worker.output.families.tags import DESCRIBED, TAGS

CALLS = (HARMONY, FUNCTIONARY, *MARKED, *TAGS, *BARE)

__all__ = ["CALLS", "DESCRIBED", "REASONING"]
