"""Converts a checkpoint's own `response_template` to an `OutputFormat`.

transformers documents the template, and reads it from tokenizer_config.json. It describes the
fields of a message by the marks around them. transformers' own code parses the tool calls.
"""

from collections.abc import Mapping
from typing import Any

from reconciler.worker.output.format import Kind, OutputFormat, Region

SECONDS = 1.0
"""Time limit of one search for marks [s]: they are the checkpoint's own regular expressions."""

RESERVED = {"again", "close", "stray", "drop", "wrap", "begin", "up", "down", "skip", "out"}
"""Group names that our own patterns use."""

_KINDS: dict[str, Kind] = {
    "thinking": "reasoning",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",
    "thought": "reasoning",
    "tool_calls": "call",
}
"""Kinds of message fields; all other fields are content."""


def from_template(template: Any) -> OutputFormat:
    """Convert a response template. Raises ValueError if it is invalid."""
    from transformers.utils.chat_parsing.response_templates import load_response_template

    try:
        parsed = load_response_template(template)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"it is malformed ({error})") from None
    regions, dropped = [], ""
    for name, field in parsed.fields.items():
        closes = field.close_re.pattern if field.close_re is not None else ""
        if field.open_re is None:
            dropped = closes  # the end of the text outside the other fields
            continue
        if reserved := RESERVED & {*field.open_re.groupindex, *_groups(field.close_re)}:
            raise ValueError(f"it uses reserved group names: {', '.join(sorted(reserved))}")
        kind = _KINDS.get(name, "content")
        read = _reader(field) if kind == "call" else None
        regions.append(
            Region(kind, field.open_re.pattern, closes, read=read, interrupts=kind != "call")
        )
    return OutputFormat(
        reasoning="response_template",
        calls="response_template",
        regions=tuple(regions),
        dropped=dropped,
        seconds=SECONDS,
    )


def _groups(pattern: Any) -> Mapping[str, int]:
    return {} if pattern is None else dict(pattern.groupindex)


def _reader(field: Any) -> Any:
    """Return a function that parses a call's body as transformers does."""
    from transformers.utils.chat_parsing.content_parsers import process_field

    def read(body: str, groups: Mapping[str, str]) -> Any:
        return process_field(body, field, dict(groups))

    return read
