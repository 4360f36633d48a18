"""The body of a completion request, as OpenAI's clients send it."""

from typing import Annotated, Any, Literal

import msgspec

from reconciler.worker.sampling import Sampling

UNSUPPORTED = (
    "tools",
    "tool_choice",
    "functions",
    "response_format",
    "logprobs",
    "top_logprobs",
    "best_of",
    "suffix",
    "echo",
    "audio",
)
"""Keys that would change the answer and are not acted on yet: refused, not ignored."""

Stop = Annotated[str, msgspec.Meta(min_length=1)]


class RequestError(Exception):
    """A request that cannot be answered; `param` is the key that it is about."""

    status = 400
    type = "invalid_request"

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class Overloaded(RequestError):  # noqa: N818  it is the client that is refused, for now
    """A request that can be answered later."""

    status = 503
    type = "overloaded"


class Part(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """What a stream tells besides the text."""

    include_usage: bool = False


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

    @property
    def stops(self) -> list[str]:
        """The texts at which the completion ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def limit(self) -> int | None:
        """Most tokens of the completion."""
        return self.max_completion_tokens or self.max_tokens


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
            raise RequestError(f"{key} is not supported yet", "unsupported_parameter", key)
    return body


def tokens(body: Body, tokenizer: Any, vocabulary: int, *, chat: bool) -> list[int]:
    """The prompt as token ids below `vocabulary`. Raises `RequestError`."""
    if chat:
        if body.messages is None:
            raise RequestError("missing 'messages'", "missing_required_parameter", "messages")
        turns = [{"role": m.role, "content": _text(m)} for m in body.messages]
        try:
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)
        except Exception as error:  # noqa: BLE001  a template raises what it likes
            words = f"the model's chat template does not take these messages: {error}"
            raise RequestError(words, "invalid_value", "messages") from None
        ids = ids["input_ids"] if isinstance(ids, dict) or hasattr(ids, "keys") else ids
    elif body.prompt is None:
        raise RequestError("missing 'prompt'", "missing_required_parameter", "prompt")
    else:
        ids = tokenizer.encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
    found = [int(token) for token in ids]
    if not found:
        raise RequestError("the prompt is empty", "invalid_value", "messages" if chat else "prompt")
    if any(not 0 <= token < vocabulary for token in found):
        raise RequestError("a token id is beyond the vocabulary", "invalid_value", "prompt")
    return found


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            words = f"content of type '{part.type}' is not supported; only text is"
            raise RequestError(words, "unsupported_parameter", "messages")
    return "".join(part.text or "" for part in message.content)
