"""Protocol between a worker and its preprocessing process: frames of MessagePack.

A frame is a header (bytes of the message, bytes of the body, time limit in seconds), a message, and
the request body that the message is about. The body is separate because encoding a large one into
the message would copy it and stall the worker's streams. The process answers each request with one
frame without a body; its time limit is unused.
"""

import struct
from typing import Any

import msgspec

from reconciler.core.dialects import Dialect
from reconciler.core.embedder import Embedder
from reconciler.core.reranker import Reranker
from reconciler.worker.embedding.request import Texts
from reconciler.worker.prompt import Prompt
from reconciler.worker.ranking.request import Pairs
from reconciler.worker.request import Body

HEADER = struct.Struct("<QQd")

MEMORY = 2_000_000_000
"""Maximum memory of one request, in bytes."""

LONGEST_REPLY = 256_000_000
"""Maximum bytes of a reply; a prompt of a million tokens takes 5 MB."""


class Setup(msgspec.Struct, tag=True):
    """Set up this tokenizer and its chat templates."""

    backend: str
    """The tokenizer in tokenizer.json's format, with transformers' modifications."""
    splits_special: bool
    """True if special tokens in a text are tokenized as plain text."""
    chat_template: str | dict[str, str] | None
    has_chat_template: bool
    has_thinking: bool
    special_tokens: dict[str, Any]


class Bind(msgspec.Struct, tag=True):
    """Prepare prompts for this model; see `Prompts`."""

    vocabulary: int
    rewinds: bool
    embedder: Embedder | None = None
    """If set, texts are tokenized for embeddings and no prompts are made."""


class Render(msgspec.Struct, tag=True):
    """Render turns with a chat template, which need not be the tokenizer's own."""

    source: str
    turns: list[dict[str, Any]]
    variables: dict[str, Any]
    most: int
    """Maximum characters of the text."""


class Learn(msgspec.Struct, tag=True):
    """Learn which variables the chat templates take."""


class Prepare(msgspec.Struct, tag=True):
    """Parse the body of a request and make its prompt."""

    body: bytes
    defaults: dict[str, Any]
    most: int | None
    """The context length, in tokens."""
    dialect: Dialect


class Embed(msgspec.Struct, tag=True):
    """Parse the body of an embeddings request and tokenize its texts."""

    body: bytes
    most: int | None
    """Maximum tokens of a text."""
    dialect: Dialect


class Rank(msgspec.Struct, tag=True):
    """Parse the body of a reranking request and make its prompts."""

    body: bytes
    reranker: Reranker
    most: int | None
    """The context length, in tokens."""


class Done(msgspec.Struct, tag=True):
    """Reply to a request without a result."""


class Text(msgspec.Struct, tag=True):
    """A rendered text."""

    text: str


class Prepared(msgspec.Struct, tag=True):
    """A request without the fields used only for its prompt, and the prompt without tools."""

    body: Body
    prompt: Prompt
    tools: bytes
    """Encoded as JSON, which allows integers of any size."""


class Tokenized(msgspec.Struct, tag=True):
    """A tokenized embeddings request."""

    texts: Texts


class Paired(msgspec.Struct, tag=True):
    """The prompts of a reranking request."""

    pairs: Pairs


class Refused(msgspec.Struct, tag=True):
    """Fields of a `RequestError`."""

    message: str
    code: str
    param: str | None = None
    status: int = 400
    busy: bool = False
    """True if the process still runs code that took too long."""


class Failed(msgspec.Struct, tag=True):
    """Any other error; `timed_out` marks a TimeoutError."""

    message: str
    timed_out: bool = False
    busy: bool = False
    """True if the process still runs code that took too long."""


Request = Setup | Bind | Render | Learn | Prepare | Embed | Rank
Reply = Done | Text | Prepared | Tokenized | Paired | Refused | Failed

encode = msgspec.msgpack.Encoder().encode


def request_frame(request: Request, seconds: float) -> tuple[bytes, bytes]:
    """Encode a request; return the frame without its body, and the body."""
    body = b""
    if isinstance(request, Prepare | Embed | Rank):
        body = request.body
        request = msgspec.structs.replace(request, body=b"")
    message = encode(request)
    return HEADER.pack(len(message), len(body), seconds) + message, body


def decode_request(message: bytes, body: bytes) -> Request:
    """Decode the message of a frame and attach its body."""
    request: Request = msgspec.msgpack.decode(message, type=Request)
    if isinstance(request, Prepare | Embed | Rank):
        request.body = body
    return request


def reply_frame(reply: Reply) -> bytes:
    """Encode a reply frame."""
    message = encode(reply)
    return HEADER.pack(len(message), 0, 0) + message


def decode_reply(data: bytes) -> Reply:
    """Decode the message of a reply frame."""
    reply: Reply = msgspec.msgpack.decode(data, type=Reply)
    return reply
