"""The messages of Anthropic's API -> messages of a chat completion.

A message of the user may hold results of tools beside text: each result becomes a message of its
own, before the text, as chat templates want them right after the calls. Reasoning that is sent back
is handed on; what is encrypted, and what Anthropic's servers did, cannot be read and is left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.worker.chat.turns import JOIN
from reconciler.worker.dialects.messages_shapes import Message
from reconciler.worker.errors import RequestError, unsupported

ATTRIBUTION = "x-anthropic-billing-header:"
"""How a system block begins by which Claude Code says to Anthropic which client it is. It differs
between conversations and agents, so that their prompts would share no beginning."""

FAILED = "Error: "
"""Before the result of a tool that failed, unless that says so itself."""

_SAYS_SO = ("error", "<tool_use_error>")

_LEFT_OUT = ("redacted_thinking", "fallback", "compaction", "tool_addition", "tool_removal")
"""Kinds of blocks without a text that a model can read."""


def chat(messages: Iterable[Message], system: Any, warnings: list[str]) -> list[dict[str, Any]]:
    """The messages of the chat. Raises `RequestError`; appends what has no effect."""
    made = [*_system(system, "system")]
    names: dict[str, str] = {}
    texts: list[dict[str, Any]] = []
    """The user's, until the results of tools that belong before them are there."""
    for index, message in enumerate(messages):
        place, content = f"messages[{index}].content", message.content
        if message.role == "user":
            blocks = content if isinstance(content, list) else [_text_block(content or "")]
            made += _results(blocks, place, names)
            texts += _texts_of_user(blocks, place, warnings)
            continue
        made += texts
        texts = []
        if message.role == "system":
            made += _system(content, place) or [{"role": "system", "content": ""}]
        else:
            blocks = content if isinstance(content, list) else [_text_block(content or "")]
            made.append(_assistant(blocks, place, names, warnings))
    return made + texts


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _system(content: Any, place: str) -> list[dict[str, Any]]:
    """The system message, if there is any text."""
    blocks = [content] if isinstance(content, str) else _texts(content or [], place)
    text = JOIN.join(block for block in blocks if not block.startswith(ATTRIBUTION))
    return [{"role": "system", "content": text}] if text else []


def _results(
    blocks: list[dict[str, Any]], place: str, names: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for index, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            yield _result(block, f"{place}[{index}]", names)


def _texts_of_user(
    blocks: list[dict[str, Any]], place: str, warnings: list[str]
) -> Iterator[dict[str, Any]]:
    """A message with what is no result, if there is anything, or nothing at all."""
    others = [(i, block) for i, block in enumerate(blocks) if block.get("type") != "tool_result"]
    texts = [_text_of(block, f"{place}[{index}]", warnings) for index, block in others]
    if others or not blocks:
        yield {"role": "user", "content": JOIN.join(filter(None, texts))}


def _result(block: Mapping[str, Any], place: str, names: Mapping[str, str]) -> dict[str, Any]:
    """A message with what a tool returned."""
    called = _string(block, "tool_use_id", place)
    content = block.get("content")
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        text = "\n".join(_texts(content, f"{place}.content"))
    if block.get("is_error") is True and not text.lstrip().lower().startswith(_SAYS_SO):
        text = FAILED + text
    made = {"role": "tool", "tool_call_id": called, "content": text}
    return made | ({"name": names[called]} if called in names else {})


def _assistant(
    blocks: list[dict[str, Any]], place: str, names: dict[str, str], warnings: list[str]
) -> dict[str, Any]:
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    joins = False
    for index, block in enumerate(blocks):
        where = f"{place}[{index}]"
        kind = block.get("type")
        if kind == "thinking":
            reasoning.append(_string(block, "thinking", where))
        elif kind == "tool_use":
            calls.append(_call(block, where, names))
        elif (text := _text_of(block, where, warnings)) is not None:
            # An answer with citations comes in pieces; what is beside calls stands by itself.
            if joins:
                texts[-1] += text
            else:
                texts.append(text)
        joins = kind == "text"
    made: dict[str, Any] = {"role": "assistant", "content": JOIN.join(filter(None, texts))}
    if thoughts := "\n".join(filter(None, reasoning)):
        made["reasoning_content"] = thoughts
    return made | ({"tool_calls": calls} if calls else {})


def _call(block: Mapping[str, Any], place: str, names: dict[str, str]) -> dict[str, Any]:
    name, number = _string(block, "name", place), _string(block, "id", place)
    arguments = block.get("input")
    if arguments is not None and not isinstance(arguments, dict):
        raise RequestError(f"{place}.input: expected an object", "invalid_value", f"{place}.input")
    names[number] = name
    function = {"name": name, "arguments": arguments or {}}
    return {"id": number, "type": "function", "function": function}


def _texts(blocks: Any, place: str) -> list[str]:
    """The texts of blocks that must all have one: of the system, or of a result."""
    if not isinstance(blocks, list):
        raise RequestError(f"{place}: expected a text or a list", "invalid_value", place)
    found = []
    for index, block in enumerate(blocks):
        where = f"{place}[{index}]"
        if not isinstance(block, dict):
            raise RequestError(f"{where}: expected an object", "invalid_value", where)
        text = _text_of(block, where, [])
        found.append(text or "")
    return [text for text in found if text]


def _text_of(block: Mapping[str, Any], place: str, warnings: list[str]) -> str | None:
    """The text of a block; None if it is left out. Raises `RequestError` for other contents."""
    kind = block.get("type")
    if kind == "text":
        return _string(block, "text", place)
    if kind == "document":
        return _document(block, place)
    if kind == "search_result":
        texts = _texts(block.get("content"), f"{place}.content")
        return "\n".join([f"{block.get('title', '')} ({block.get('source', '')})", *texts])
    if kind == "tool_reference":
        return f"Tool: {block.get('tool_name', '')}"
    if kind in _LEFT_OUT:
        return None
    if isinstance(kind, str) and _by_a_server(kind):
        warnings.append(f"{place}: {kind[:80]} is what Anthropic's servers did; left out")
        return None
    words = f"content of type {str(kind)[:80]!r} is not supported here; only text is"
    if kind == "image":
        words = "images are not supported; only text is"
    raise unsupported(place, f"{place}: {words}")


def _by_a_server(kind: str) -> bool:
    """True of tools that Anthropic's servers run, and of their results."""
    return kind.startswith(("server_tool_use", "mcp_")) or kind.endswith("_tool_result")


def _document(block: Mapping[str, Any], place: str) -> str:
    """The text of a document that is sent as text."""
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    heads = [str(block[key]) for key in ("title", "context") if block.get(key)]
    if isinstance(source, dict) and kind == "text":
        return "\n".join([*heads, _string(source, "data", f"{place}.source")])
    if isinstance(source, dict) and kind == "content":
        content = source.get("content")
        inner = f"{place}.source.content"
        texts = [content] if isinstance(content, str) else _texts(content, inner)
        return "\n".join([*heads, *texts])
    words = f"{place}: documents other than text are not supported; send their text"
    raise unsupported(place, words)


def _string(block: Mapping[str, Any], key: str, place: str) -> str:
    value = block.get(key)
    if isinstance(value, str):
        return value
    where = f"{place}.{key}"
    if key in block:
        raise RequestError(f"{where}: expected a text", "invalid_value", where)
    raise RequestError(f"{where} is missing", "missing_required_parameter", where)
