"""What is wrong with a completion request, in the form in which clients get it."""

from collections.abc import Mapping
from typing import Self

LONGEST = 1000
"""Characters of a message: it may name a value that was sent."""

LONGEST_PARAM = 200


class RequestError(Exception):
    """A request that cannot be answered; `param` is the key that it is about."""

    status = 400
    type = "invalid_request"

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}...")
        self.code = code
        self.param = None if param is None else param[:LONGEST_PARAM]

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The error of a request in which keys have other names."""
        key = (self.param or "").partition(".")[0].partition("[")[0]
        if key not in names:
            return self
        rest = (self.param or "").removeprefix(key)
        words = str(self)
        if words.startswith(key):
            words = names[key] + words.removeprefix(key)
        return type(self)(words, self.code, names[key] + rest)


class UnavailableError(RequestError):
    """A request that can be answered later."""

    status = 503
    type = "unavailable"


def unsupported(key: str, message: str) -> RequestError:
    """The error for a key that cannot be honoured."""
    return RequestError(message, "unsupported_parameter", key)
