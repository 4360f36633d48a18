"""Strings of calls in tags, in which no mark counts."""

from reconciler.worker.output.format import JSON_STRINGS, Quotes

PARAMETERS = (Quotes(r"<[^<>\s/]*?param(?:eter)?[\s=][^<>]*>", r"</[^<>\s]*?param(?:eter)?>"),)
"""Values of parameters in tags."""
TAGGED = (*PARAMETERS, Quotes(r"<\w*arg_value>", r"</\w*arg_value>"), *JSON_STRINGS)
