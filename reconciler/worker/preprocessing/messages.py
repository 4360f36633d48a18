"""What a worker and its preprocessing process send each other, as frames of MessagePack.

A frame is a header (bytes of the message, bytes of the body, seconds that the request may take), a
message, and the body that the message is about: it is not a part of the message, as a large one
would be copied into it while the worker's streams wait. The process answers each request with one
frame, which has no body and whose seconds have no meaning.
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
"""Bytes that one request may take."""

LONGEST_REPLY = 256_000_000
"""Bytes; a prompt of a million tokens takes 5 MB."""


class Setup(msgspec.Struct, tag=True):
    """Take this tokenizer and these chat templates."""

    backend: str
    """The tokenizer in the form of tokenizer.json, as transformers has set it up."""
    splits_special: bool
    """True if special tokens in a text are text."""
    chat_template: str | dict[str, str] | None
    has_chat_template: bool
    has_thinking: bool
    special_tokens: dict[str, Any]


class Bind(msgspec.Struct, tag=True):
    """Make prompts for this model; see `Prompts`."""

    vocabulary: int
    rewinds: bool
    embedder: Embedder | None = None
    """With it texts are made into tokens for embeddings, and no prompts."""


class Render(msgspec.Struct, tag=True):
    """Render turns by a chat template, which need not be that of the tokenizer."""

    source: str
    turns: list[dict[str, Any]]
    variables: dict[str, Any]
    most: int
    """Characters that the text may have."""


class Learn(msgspec.Struct, tag=True):
    """Learn what the chat templates take."""


class Prepare(msgspec.Struct, tag=True):
    """Parse the body of a request and make its prompt."""

    body: bytes
    defaults: dict[str, Any]
    most: int | None
    """The context length, in tokens."""
    dialect: Dialect


class Embed(msgspec.Struct, tag=True):
    """Parse the body of a request for embeddings and make the tokens of its texts."""

    body: bytes
    most: int | None
    """Tokens of the longest text."""
    dialect: Dialect


class Rank(msgspec.Struct, tag=True):
    """Parse the body of a request for reranking and make its prompts."""

    body: bytes
    reranker: Reranker
    most: int | None
    """The context length, in tokens."""


class Done(msgspec.Struct, tag=True):
    """The answer to what has no result."""


class Text(msgspec.Struct, tag=True):
    """A rendering."""

    text: str


class Prepared(msgspec.Struct, tag=True):
    """A request, without what the prompt was made of, and its prompt without the tools."""

    body: Body
    prompt: Prompt
    tools: bytes
    """As JSON, which has integers of any size."""


class Tokenized(msgspec.Struct, tag=True):
    """A request for embeddings."""

    texts: Texts


class Paired(msgspec.Struct, tag=True):
    """A request for reranking."""

    pairs: Pairs


class Refused(msgspec.Struct, tag=True):
    """A `RequestError`."""

    message: str
    code: str
    param: str | None = None
    status: int = 400


class Failed(msgspec.Struct, tag=True):
    """Any other error, in words; `timed_out` is that of a TimeoutError."""

    message: str
    timed_out: bool = False


Request = Setup | Bind | Render | Learn | Prepare | Embed | Rank
Reply = Done | Text | Prepared | Tokenized | Paired | Refused | Failed

encode = msgspec.msgpack.Encoder().encode


def request_frame(request: Request, seconds: float) -> tuple[bytes, bytes]:
    """A frame but for its body, and its body."""
    body = b""
    if isinstance(request, Prepare | Embed | Rank):
        body = request.body
        request = msgspec.structs.replace(request, body=b"")
    message = encode(request)
    return HEADER.pack(len(message), len(body), seconds) + message, body


def decode_request(message: bytes, body: bytes) -> Request:
    """The request of a frame."""
    request: Request = msgspec.msgpack.decode(message, type=Request)
    if isinstance(request, Prepare | Embed | Rank):
        request.body = body
    return request


def reply_frame(reply: Reply) -> bytes:
    """A frame of an answer."""
    message = encode(reply)
    return HEADER.pack(len(message), 0, 0) + message


def decode_reply(data: bytes) -> Reply:
    """The answer of a frame."""
    reply: Reply = msgspec.msgpack.decode(data, type=Reply)
    return reply
