"""Translate the input items of a request into messages of a chat.

One answer of a model is several items here but one message in a chat. Items between two turns of
other roles are merged, so that the template sees the answer as the model wrote it.
"""

from typing import Any, Literal

import msgspec

from reconciler.worker.dialects.responses.checking import converted
from reconciler.worker.errors import RequestError, unsupported

JOIN = "\n\n"
"""Separator of texts that were separate items of one answer."""

NO_PICTURE = "[a picture or file is here, which this model cannot read]"
"""Placeholder in a tool's result. An agent could not continue if such a result were rejected."""


class Message(msgspec.Struct):
    """A message of any role; the status and id of assistant messages are ignored."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


class FunctionCall(msgspec.Struct):
    """A call in an earlier answer."""

    name: str
    call_id: str
    arguments: str = ""


class CustomCall(msgspec.Struct):
    """A call of a custom tool, whose input is text."""

    name: str
    call_id: str
    input: str = ""


class CallOutput(msgspec.Struct):
    """The result of a call."""

    output: str | list[dict[str, Any]]
    call_id: str | None = None


class Text(msgspec.Struct):
    """A part of a reasoning item."""

    text: str


class Reasoning(msgspec.Struct):
    """A model's reasoning, as its text or a summary."""

    summary: list[Text] | None = None
    content: list[Text] | None = None
    encrypted_content: str | None = None


_IGNORED = frozenset(
    (
        *("web_search_call", "file_search_call", "image_generation_call", "code_interpreter_call"),
        *("computer_call", "computer_call_output", "local_shell_call", "local_shell_call_output"),
        *("shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output"),
        *("mcp_list_tools", "mcp_call", "mcp_approval_request", "mcp_approval_response"),
        *("tool_search_call", "tool_search_output", "additional_tools", "configuration_update"),
        *("program", "program_output"),
    )
)
"""Items of tools that only OpenAI provides, from another model's answers in the history."""

_STORED = frozenset(("item_reference", "compaction", "compaction_trigger"))
"""References to server-side state, and items that only OpenAI can read."""

_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Types of text parts, with the key of the text."""

_PICTURES = ("input_image", "input_file", "input_audio", "image_url", "file")


class _Answer:
    """An assistant message assembled from items."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def message(self) -> dict[str, Any]:
        made: dict[str, Any] = {"role": "assistant", "content": JOIN.join(self.texts)}
        if self.reasoning:
            made["reasoning_content"] = JOIN.join(self.reasoning)
        if self.calls:
            made["tool_calls"] = self.calls
        return made


class Conversation:
    """Translates items into messages, in order."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._answer: _Answer | None = None
        self._readers = {
            "message": self._message,
            "function_call": self._function_call,
            "function_call_output": self._output,
            "custom_tool_call": self._custom_call,
            "custom_tool_call_output": self._output,
            "reasoning": self._reasoning,
        }

    def add(self, item: Any, place: str) -> None:
        """Add the item at `place` in the request. Raises `RequestError`."""
        if not isinstance(item, dict):
            raise RequestError(f"{place}: an item must be an object", "invalid_value", place)
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else "item_reference"
        if not isinstance(kind, str):
            words = f"{place}.type: Expected `str`"
            raise RequestError(words, "invalid_value", f"{place}.type")
        if kind in self._readers:
            self._readers[kind](item, place)
        elif kind in _IGNORED:
            self.warnings.append(f"{place}: items of type {kind} are ignored")
        elif kind in _STORED:
            words = (
                f"{place}: items of type {kind} are not supported: nothing is stored; send the "
                "items themselves, as clients do with store: false"
            )
            raise unsupported(place, words)
        else:
            words = f"{place}.type: {kind[:80]!r} is not a valid item type"
            raise RequestError(words, "invalid_value", f"{place}.type")

    def end(self) -> list[dict[str, Any]]:
        """Close the last answer; return the messages."""
        self._close()
        return self.messages

    def _open(self) -> _Answer:
        if self._answer is None:
            self._answer = _Answer()
        return self._answer

    def _close(self) -> None:
        if self._answer is not None:
            self.messages.append(self._answer.message())
            self._answer = None

    def _message(self, item: Any, place: str) -> None:
        sent = converted(item, Message, place)
        text = _text(sent.content, f"{place}.content")
        if sent.role != "assistant":
            self._close()
            self.messages.append({"role": sent.role, "content": text})
            return
        answer = self._answer
        if answer is not None and answer.texts and not answer.calls:
            self._close()  # consecutive answers
        self._open().texts.append(text)

    def _function_call(self, item: Any, place: str) -> None:
        sent = converted(item, FunctionCall, place)
        self._call(sent.call_id, sent.name, sent.arguments)

    def _custom_call(self, item: Any, place: str) -> None:
        sent = converted(item, CustomCall, place)
        self._call(sent.call_id, sent.name, {"input": sent.input})

    def _call(self, call_id: str, name: str, arguments: Any) -> None:
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._open().calls.append(call)

    def _output(self, item: Any, place: str) -> None:
        sent = converted(item, CallOutput, place)
        self._close()
        message = {"role": "tool", "content": self._result(sent.output, f"{place}.output")}
        if sent.call_id is not None:
            message["tool_call_id"] = sent.call_id
        self.messages.append(message)

    def _result(self, output: str | list[dict[str, Any]], place: str) -> str:
        """Text of a result, with a placeholder for each part that is not text."""
        if isinstance(output, str):
            return output
        texts = []
        for index, part in enumerate(output):
            if part.get("type") in _PICTURES:
                self.warnings.append(f"{place}[{index}]: {part['type']} cannot be read, ignored")
                texts.append(NO_PICTURE)
            else:
                texts.append(_part(part, f"{place}[{index}]"))
        return "\n".join(texts)

    def _reasoning(self, item: Any, place: str) -> None:
        sent = converted(item, Reasoning, place)
        text = "\n".join(part.text for part in sent.content or sent.summary or ())
        if text:
            self._open().reasoning.append(text)
        elif sent.encrypted_content:
            self.warnings.append(f"{place}.encrypted_content: cannot be read, ignored")


def _text(content: str | list[dict[str, Any]], place: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{place}[{index}]") for index, part in enumerate(content))


def _part(part: dict[str, Any], place: str) -> str:
    kind = part.get("type")
    key = _TEXTS.get(kind) if isinstance(kind, str) else None
    if key is None:
        words = f"{place}: content of type {str(kind)[:80]!r} is not supported; only text is"
        raise unsupported(place, words)
    text = part.get(key)
    if not isinstance(text, str):
        raise RequestError(f"{place}.{key} is missing", "invalid_value", f"{place}.{key}")
    return text
