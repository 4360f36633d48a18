"""Parses model output into content, reasoning and tool calls.

`detect` chooses a checkpoint's `OutputFormat` once, when it is loaded: from its own
`response_template` if it has one, else from the descriptions in `families`. `OutputParser` applies
the format to the tokens of one completion. Families are data; only the readers of tool calls
(`readers`) are code.

transformers' ResponseParser does not parse completions here: it raises on slightly malformed calls,
cannot fall back to text, and copies the whole completion for each token.
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
