"""Errors of completion requests, as they are reported to clients."""

LONGEST = 1000
"""Maximum characters of a message, which may quote a value of the request."""

LONGEST_PARAM = 200


class RequestError(Exception):
    """A request that cannot be answered; `param`: the key that causes the error."""

    status = 400
    type = "invalid_request"

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}...")
        self.code = code
        self.param = None if param is None else param[:LONGEST_PARAM]


class UnavailableError(RequestError):
    """A request that cannot be answered now; a retry may succeed."""

    status = 503
    type = "unavailable"


def unsupported(key: str, message: str) -> RequestError:
    """Error for a key that is not supported."""
    return RequestError(message, "unsupported_parameter", key)
