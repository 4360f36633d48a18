"""Bodies of Ollama's requests that the daemon answers itself."""

from typing import TypeVar

import msgspec

from reconciler.api.errors import ApiError

T = TypeVar("T")


def decoded(body: bytes, type_: type[T]) -> T:
    """Decode a body as that type. Raises `ApiError`."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (ValueError, RecursionError) as error:
        message = f"the body is not valid: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_value") from None
