"""Strings of calls in tags, in which no mark counts."""

from reconciler.worker.output.format import JSON_STRINGS, Quotes

PARAMETERS = (
    Quotes(r"<[^<>\s/]{0,20}param(?:eter)?[\s=][^<>]{1,200}>", r"</[^<>\s]{0,20}param(?:eter)?>"),
)
"""Values of parameters in tags."""
TAGGED = (*PARAMETERS, Quotes(r"<\w{0,20}arg_value>", r"</\w{0,20}arg_value>"), *JSON_STRINGS)
