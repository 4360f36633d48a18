"""What is wrong with a completion request, in the form in which clients get it."""

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


class UnavailableError(RequestError):
    """A request that can be answered later."""

    status = 503
    type = "unavailable"


def unsupported(key: str, message: str) -> RequestError:
    """The error for a key that cannot be honoured."""
    return RequestError(message, "unsupported_parameter", key)
