"""The body of a completion request, as OpenAI's clients send it."""

import json
from typing import Annotated, Any, Literal

import msgspec

from reconciler.worker.sampling import Sampling

UNSUPPORTED = ("functions", "function_call", "best_of", "suffix", "echo", "audio", "prediction")
"""Keys that would change the answer and are not acted on: refused, not ignored."""

Stop = Annotated[str, msgspec.Meta(min_length=1)]


class RequestError(Exception):
    """A request that cannot be answered; `param` is the key that it is about."""

    status = 400
    type = "invalid_request"

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class UnavailableError(RequestError):
    """A request that can be answered later."""

    status = 503
    type = "unavailable"


class Part(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class Called(msgspec.Struct):
    """The function of a tool call; `arguments` is JSON."""

    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    """A call that an earlier answer made."""

    function: Called
    id: str | None = None
    type: Literal["function"] = "function"


class Message(msgspec.Struct):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Function(msgspec.Struct):
    """A tool's function, as the model is told of it."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class StreamOptions(msgspec.Struct):
    """What a stream tells besides the text."""

    include_usage: bool = False
    include_progress: bool | None = False


class ResponseFormat(msgspec.Struct):
    """The form of the answer: text is the only one there is."""

    type: str


class Body(Sampling):
    """Both kinds of request. Keys that are not known are ignored, as OpenAI's servers' are."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    prompt: str | list[int] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts at which the completion ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def limit(self) -> int | None:
        """Most tokens of the completion."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are told at each place; None: no log-probabilities."""
        if self.logprobs is None or self.logprobs is False:
            return None
        return self.top_logprobs or 0 if self.logprobs is True else self.logprobs


def parse(data: bytes) -> Body:
    """The request. Raises `RequestError` naming what does not fit."""
    try:
        body = msgspec.json.decode(data, type=Body)
        keys: dict[str, Any] = msgspec.json.decode(data)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        raise RequestError(f"{param or 'the body'}: {words}", "invalid_value", param) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}", "invalid_json") from None
    for key in UNSUPPORTED:
        if keys.get(key):
            raise _unsupported(key, f"{key} is not supported")
    if body.tool_choice not in (None, "auto", "none"):
        raise _unsupported("tool_choice", "tool_choice can be auto or none; no call can be forced")
    if body.response_format is not None and body.response_format.type != "text":
        words = f"response_format '{body.response_format.type}' is not supported; only text is"
        raise _unsupported("response_format", words)
    return body


def tokens(body: Body, tokenizer: Any, vocabulary: int, *, chat: bool) -> list[int]:
    """The prompt as token ids below `vocabulary`. Raises `RequestError`."""
    key = "messages" if chat else "prompt"
    if chat:
        ids = _templated(body, tokenizer)
    elif body.prompt is None:
        raise RequestError("missing 'prompt'", "missing_required_parameter", "prompt")
    else:
        ids = tokenizer.encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
    found = [int(token) for token in ids]
    if not found:
        raise RequestError("the prompt is empty", "invalid_value", key)
    if any(not 0 <= token < vocabulary for token in found):
        raise RequestError("a token id is beyond the vocabulary", "invalid_value", key)
    return found


def _templated(body: Body, tokenizer: Any) -> Any:
    """The messages through the model's chat template."""
    if body.messages is None:
        raise RequestError("missing 'messages'", "missing_required_parameter", "messages")
    if not tokenizer.has_chat_template:
        words = "this model has no chat template; /v1/completions takes a prompt as it is"
        raise RequestError(words, "unsupported_parameter", "messages")
    more = dict(body.chat_template_kwargs or {})
    if body.tools and body.tool_choice != "none":
        if not tokenizer.has_tool_calling:
            raise _unsupported("tools", "this model's chat template knows no tools")
        more["tools"] = tools_as_sent(body)
    if body.reasoning_effort is not None:
        more |= _reasoning(body.reasoning_effort, tokenizer)
    turns = [_turn(message) for message in body.messages]
    try:
        return tokenizer.apply_chat_template(
            turns, **(more | {"add_generation_prompt": True, "tokenize": True})
        )
    except Exception as error:  # noqa: BLE001  a template raises what it likes
        words = f"the model's chat template does not take these messages: {error}"
        raise RequestError(words, "invalid_value", "messages") from None


def _reasoning(effort: str, tokenizer: Any) -> dict[str, Any]:
    """What templates call it: some take the effort, others only whether to think."""
    template = tokenizer.chat_template
    if not (tokenizer.has_thinking or "reasoning_effort" in str(template)):
        raise _unsupported("reasoning_effort", "this model does not reason")
    return {"reasoning_effort": effort, "enable_thinking": effort != "none"}


def _turn(message: Message) -> dict[str, Any]:
    """A message as chat templates take it: text, and tool calls with their arguments parsed."""
    turn: dict[str, Any] = {"role": message.role, "content": _text(message)}
    for key in ("reasoning_content", "tool_call_id", "name"):
        if getattr(message, key) is not None:
            turn[key] = getattr(message, key)
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    return turn


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except ValueError as error:
        words = f"the arguments of a call of {call.function.name} are not JSON: {error}"
        raise RequestError(words, "invalid_value", "messages") from None
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            words = f"content of type '{part.type}' is not supported; only text is"
            raise _unsupported("messages", words)
    return "".join(part.text or "" for part in message.content)


def tools_as_sent(body: Body) -> list[dict[str, Any]]:
    """The tools without what was left out: templates write out the keys that are there."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(body.tools or [])
    for tool in plain:
        tool["function"] = {k: v for k, v in tool["function"].items() if v is not None}
    return plain


def _unsupported(key: str, words: str) -> RequestError:
    return RequestError(words, "unsupported_parameter", key)
