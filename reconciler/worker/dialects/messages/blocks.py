"""Translate messages of Anthropic's API into messages of a chat completion.

A user message may contain tool results beside text. Each result becomes a separate message before
the text, because chat templates expect results directly after the calls. Reasoning that the client
sends back is passed on. Encrypted blocks, and the actions of Anthropic's servers, cannot be read
and are omitted.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.worker.chat.turns import JOIN
from reconciler.worker.dialects.messages import signatures
from reconciler.worker.dialects.messages.shapes import Message
from reconciler.worker.dialects.messages.tools import Tools, function
from reconciler.worker.errors import RequestError, unsupported

ATTRIBUTION = "x-anthropic-billing-header:"
"""Prefix of the system block in which Claude Code identifies its client to Anthropic. It differs
between conversations and agents, so it would prevent sharing the beginning of their prompts."""

FAILED = "Error: "
"""Prefix for the result of a failed tool, unless its text already marks an error."""

_ERROR_MARKS = ("error", "<tool_use_error>")

_LEFT_OUT = ("redacted_thinking", "fallback")
"""Types of blocks without text that a model can read."""


class Chat:
    """Translates the messages of one request."""

    def __init__(self, tools: Tools, warnings: list[str]) -> None:
        """`tools` are the request's; warnings about ignored parts are appended to `warnings`."""
        self._tools, self._warnings = tools, warnings
        self._names: dict[str, str] = {}
        """Names of the called tools, by call id."""

    def messages(self, sent: Iterable[Message], system: Any) -> list[dict[str, Any]]:
        """Translate the messages and the system prompt. Raises `RequestError`."""
        made = self._system(system, "system")
        texts: list[dict[str, Any]] = []
        """User texts, held back until the tool results that must precede them are added."""
        for index, message in enumerate(sent):
            place, content = f"messages[{index}].content", message.content
            if message.role == "user":
                blocks = content if isinstance(content, list) else [_text_block(content)]
                made += self._results(blocks, place)
                texts += self._user(blocks, place)
                continue
            made += texts
            texts = []
            if message.role == "system":
                made += self._system(content, place) or [{"role": "system", "content": ""}]
            else:
                blocks = content if isinstance(content, list) else [_text_block(content)]
                made.append(self._assistant(blocks, place))
        return made + texts

    def _system(self, content: Any, place: str) -> list[dict[str, Any]]:
        """Return the system message; empty if it has no text."""
        blocks = [content] if isinstance(content, str) else self._texts(content or [], place)
        text = JOIN.join(block for block in blocks if not block.startswith(ATTRIBUTION))
        return [{"role": "system", "content": text}] if text else []

    def _results(self, blocks: list[dict[str, Any]], place: str) -> Iterator[dict[str, Any]]:
        for index, block in enumerate(blocks):
            if block.get("type") == "tool_result":
                yield self._result(block, f"{place}[{index}]")

    def _user(self, blocks: list[dict[str, Any]], place: str) -> Iterator[dict[str, Any]]:
        """Yield a message with the blocks other than tool results, unless there are none."""
        others = [(i, one) for i, one in enumerate(blocks) if one.get("type") != "tool_result"]
        texts = [self._text(block, f"{place}[{index}]") for index, block in others]
        if others or not blocks:
            yield {"role": "user", "content": JOIN.join(filter(None, texts))}

    def _result(self, block: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Translate a tool's result into a message."""
        called = _string(block, "tool_use_id", place)
        content = block.get("content")
        if content is None or isinstance(content, str):
            text = content or ""
        else:
            text = "\n".join(self._texts(content, f"{place}.content"))
            if content and all(one["type"] == "tool_reference" for one in content):
                text = f"<functions>\n{text}\n</functions>"
        if block.get("is_error") is True and not text.lstrip().lower().startswith(_ERROR_MARKS):
            text = FAILED + text
        made = {"role": "tool", "tool_call_id": called, "content": text}
        return made | ({"name": self._names[called]} if called in self._names else {})

    def _assistant(self, blocks: list[dict[str, Any]], place: str) -> dict[str, Any]:
        texts: list[str] = []
        reasoning: list[str] = []
        calls: list[dict[str, Any]] = []
        joins = False
        for index, block in enumerate(blocks):
            where = f"{place}[{index}]"
            kind = block.get("type")
            if kind == "thinking":
                shown = _string(block, "thinking", where)
                reasoning.append(shown or signatures.carried(block.get("signature")))
            elif kind == "tool_use":
                calls.append(self._call(block, where))
            elif (text := self._text(block, where)) is not None:
                # Pieces of an answer with citations are joined; text separated by other blocks is
                # not.
                if joins:
                    texts[-1] += text
                else:
                    texts.append(text)
            joins = kind == "text"
        made: dict[str, Any] = {"role": "assistant", "content": JOIN.join(filter(None, texts))}
        if thoughts := "\n".join(filter(None, reasoning)):
            made["reasoning_content"] = thoughts
        return made | ({"tool_calls": calls} if calls else {})

    def _call(self, block: Mapping[str, Any], place: str) -> dict[str, Any]:
        name, number = _string(block, "name", place), _string(block, "id", place)
        arguments = block.get("input")
        if arguments is not None and not isinstance(arguments, dict):
            where = f"{place}.input"
            raise RequestError(f"{where}: expected an object", "invalid_value", where)
        self._names[number] = name
        called = {"name": name, "arguments": arguments or {}}
        return {"id": number, "type": "function", "function": called}

    def _texts(self, blocks: Any, place: str) -> list[str]:
        """Texts of the blocks of a system prompt or result."""
        if not isinstance(blocks, list):
            raise RequestError(f"{place}: expected a string or a list", "invalid_value", place)
        found = []
        for index, block in enumerate(blocks):
            where = f"{place}[{index}]"
            if not isinstance(block, dict):
                raise RequestError(f"{where}: expected an object", "invalid_value", where)
            found.append(self._text(block, where))
        return [text for text in found if text]

    def _text(self, block: Mapping[str, Any], place: str) -> str | None:
        """Text of a block; None if it is omitted. Raises `RequestError` for unsupported content."""
        kind = block.get("type")
        if kind == "text":
            return _string(block, "text", place)
        if kind == "document":
            return self._document(block, place)
        if kind == "search_result":
            texts = self._texts(block.get("content"), f"{place}.content")
            return "\n".join([f"{block.get('title', '')} ({block.get('source', '')})", *texts])
        if kind == "tool_reference":
            return self._tools.definition(_string(block, "tool_name", place))
        if kind in ("tool_addition", "tool_removal"):
            return self._tool_change(block, place)
        if kind == "compaction":
            return block["content"] if isinstance(block.get("content"), str) else None
        if kind in _LEFT_OUT:
            return None
        if isinstance(kind, str) and _by_a_server(kind):
            words = f"{place}: {kind[:80]} was run by Anthropic's servers; left out"
            self._warnings.append(words)
            return None
        words = f"content of type {str(kind)[:80]!r} is not supported here; only text is"
        if kind == "image":
            words = "images are not supported; only text is"
        raise unsupported(place, f"{place}: {words}")

    def _tool_change(self, block: Mapping[str, Any], place: str) -> str | None:
        """Text that announces a tool added or removed in the middle of a chat."""
        where, tool = f"{place}.tool", block.get("tool")
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(tool, dict) and kind == "tool_reference":
            name = _string(tool, "name", where)
        elif isinstance(tool, dict) and kind == "tool_definition":
            definition = tool.get("definition")
            made = function(definition if isinstance(definition, dict) else {}, where)
            name = made["name"]
            self._tools.deferred[name] = {"type": "function", "function": made}
        else:
            self._warnings.append(f"{where}: type {str(kind)[:80]} is unknown; left out")
            return None
        if block.get("type") == "tool_removal":
            return f"The tool {name} is not available any more."
        return f"<functions>\n{self._tools.definition(name)}\n</functions>"

    def _document(self, block: Mapping[str, Any], place: str) -> str:
        """Text of a document with text content."""
        source = block.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        heads = [str(block[key]) for key in ("title", "context") if block.get(key)]
        if isinstance(source, dict) and kind == "text":
            return "\n".join([*heads, _string(source, "data", f"{place}.source")])
        if isinstance(source, dict) and kind == "content":
            content = source.get("content")
            inner = f"{place}.source.content"
            texts = [content] if isinstance(content, str) else self._texts(content, inner)
            return "\n".join([*heads, *texts])
        words = f"{place}: documents other than text are not supported; send their text"
        raise unsupported(place, words)


def _text_block(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text or ""}


def _by_a_server(kind: str) -> bool:
    """True for tools that Anthropic's servers run, and for their results."""
    return kind.startswith(("server_tool_use", "mcp_")) or kind.endswith("_tool_result")


def _string(block: Mapping[str, Any], key: str, place: str) -> str:
    value = block.get(key)
    if isinstance(value, str):
        return value
    where = f"{place}.{key}"
    if key in block:
        raise RequestError(f"{where}: expected a string", "invalid_value", where)
    raise RequestError(f"{where} is missing", "missing_required_parameter", where)
