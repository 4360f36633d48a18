"""What a model writes -> content, reasoning and tool calls.

`detect` chooses a checkpoint's `OutputFormat` once, when it is loaded: from its own
`response_template`, else from the descriptions in `families`. `OutputParser` applies it to the
tokens of one completion. A family is data; only readers of calls (`readers`) are code.

transformers' own ResponseParser is not used for parsing: it raises where a call is not quite
right, has no text to fall back to, and copies the whole answer with each token.
"""

from reconciler.worker.output.detect import common_beginning, described, detect, of_tokenizer
from reconciler.worker.output.format import OutputFormat
from reconciler.worker.output.parser import Delta, OutputParser, TextParser

__all__ = [
    "Delta",
    "OutputFormat",
    "OutputParser",
    "TextParser",
    "common_beginning",
    "described",
    "detect",
    "of_tokenizer",
]
