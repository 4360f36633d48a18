"""Strings of tool calls in tags, inside which marks are ignored."""

from reconciler.worker.output.format import JSON_STRINGS, Quotes

PARAMETERS = (
    Quotes(r"<[^<>\s/]{0,20}param(?:eter)?[\s=][^<>]{1,200}>", r"</[^<>\s]{0,20}param(?:eter)?>"),
)
"""Parameter values in tags."""
TAGGED = (*PARAMETERS, Quotes(r"<\w{0,20}arg_value>", r"</\w{0,20}arg_value>"), *JSON_STRINGS)
