"""Parse Ollama's embeddings requests: `/api/embed`, and the older `/api/embeddings` for one text.

Source: Ollama's API reference and `api/types.go`. `/api/embed` returns vectors of length 1, the
older route the model's vectors unchanged.
"""

from itertools import islice
from typing import Annotated, Any

import msgspec

from reconciler.core.ollama import keep_alive_seconds
from reconciler.worker.dialects.checking import checked, unknown
from reconciler.worker.embedding.request import Wanted
from reconciler.worker.errors import RequestError
from reconciler.worker.request import WARNINGS


class _Common(msgspec.Struct):
    model: str
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class Embed(_Common):
    """The body of `/api/embed`."""

    input: str | list[str] = ""
    truncate: bool | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Embeddings(_Common):
    """The body of `/api/embeddings`."""

    prompt: str = ""


def read_embed(sent: dict[str, Any], _prompts: dict[str, str]) -> Wanted:
    """Parse the body of `/api/embed`. Long texts are truncated unless `truncate` is false.

    Raises `RequestError`.
    """
    asked = _checked(sent, Embed)
    several = not isinstance(asked.input, str)
    return Wanted(
        inputs=list(asked.input) if isinstance(asked.input, list) else [asked.input],
        listed=several,
        dimensions=asked.dimensions or None,
        normalize=True,
        truncate=None if asked.truncate is False else 0,
        allow_empty=True,
        echo={"model": asked.model},
        warnings=_unknown(sent, Embed),
    )


def read_embeddings(sent: dict[str, Any], _prompts: dict[str, str]) -> Wanted:
    """Parse the body of `/api/embeddings`. Raises `RequestError`."""
    asked = _checked(sent, Embeddings)
    return Wanted(
        inputs=[asked.prompt],
        key="prompt",
        listed=False,
        echo={"model": asked.model},
        warnings=_unknown(sent, Embeddings),
    )


def _checked(sent: dict[str, Any], kind: type[Any]) -> Any:
    asked = checked(sent, kind)
    try:
        keep_alive_seconds(asked.keep_alive)
    except ValueError as error:
        raise RequestError(str(error), "invalid_value", "keep_alive") from None
    return asked


def _unknown(sent: dict[str, Any], kind: type[msgspec.Struct]) -> list[str]:
    return list(islice(unknown(sent, kind.__struct_fields__), WARNINGS))
