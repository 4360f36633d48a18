"""How families of models write reasoning and tool calls: descriptions, no code.

Reasoning and calls are described apart, since families combine them freely. The order matters:
the first description of calls whose signs are in a chat template is tried first. Sources: the chat
templates as published, and what the models were seen to write besides.
"""

from reconciler.worker.output.families.bare import BARE
from reconciler.worker.output.families.marked import MARKED
from reconciler.worker.output.families.messages import FUNCTIONARY, HARMONY
from reconciler.worker.output.families.reasoning import REASONING
from reconciler.worker.output.families.tags import DESCRIBED, TAGS

CALLS = (HARMONY, FUNCTIONARY, *MARKED, *TAGS, *BARE)

__all__ = ["CALLS", "DESCRIBED", "REASONING"]
