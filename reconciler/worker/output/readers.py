"""Parses the bodies of tool calls into names and arguments.

A reader takes the text between the marks of a call and returns the calls in it, or raises
ValueError: then the call becomes text. Readers tolerate known imprecisions of models; each call
that they return has a name and an object of arguments.
"""

from collections.abc import Callable

from reconciler.worker.output import patterns, tag_readers, text_readers, values
from reconciler.worker.output.calls import Call, Context, Tools, from_value
from reconciler.worker.output.format import Region
from reconciler.worker.output.splitter import Part

Reader = Callable[[str, Context], list[Call]]


def read(part: Part, tools: Tools, *, end: str | None) -> list[Call]:
    """Parse the body of a call into calls. Raises ValueError if there is none.

    `end`: finish reason of the completion, "stop" or "length"; None if it continues. Missing parts
    of a completion that was cut off are not filled in.
    """
    if not tools.names:
        raise ValueError("no tools were offered")
    region = part.region
    if region is None:
        raise ValueError("the region has no calls")
    cut = not part.closed and end == "length"
    context = Context(
        tools,
        part.groups,
        region.pattern,
        unclosed=not cut,
        cut=cut,
    )
    try:
        with patterns.limited():
            calls = _calls(part, region, context)
    except TimeoutError:
        raise ValueError("the call takes too long to parse") from None
    if not calls:
        raise ValueError("the body has no call")
    if region.offered and any(call.name not in tools for call in calls):
        raise ValueError("the tool was not offered")
    return [_typed(call, tools) for call in calls]


def _calls(part: Part, region: Region, context: Context) -> list[Call]:
    if region.read is None:
        return READERS[region.reader](part.text, context)
    found = region.read(part.text, part.groups)
    items = found if isinstance(found, list) else [found]
    return [from_value(item, context.tools) for item in items]


def _typed(call: Call, tools: Tools) -> Call:
    arguments = {
        key: values.finite(values.to_schema(value, tools.schema(call.name, key)))
        for key, value in call.arguments.items()
    }
    return Call(call.name, arguments, call.id)


READERS: dict[str, Reader] = {
    "json": text_readers.read_json,
    "named": text_readers.read_named,
    "headed": text_readers.read_headed,
    "mistral": text_readers.read_mistral,
    "invokes": tag_readers.read_invokes,
    "tagged": tag_readers.read_tagged,
    "keyed": tag_readers.read_keyed,
    "pythonic": text_readers.read_python,
    "gemma": text_readers.read_gemma,
    "xtml": text_readers.read_xtml,
}
