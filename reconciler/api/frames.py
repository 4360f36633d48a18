"""Stack frames of an unexpected error, without its message.

The message of an exception may contain a header, a body or a token, so it is never logged.
"""

import traceback
from itertools import islice

MAX_CAUSES = 5


def frames(error: BaseException) -> str:
    """Type and frames of an error and of each of its causes, the last cause last."""
    return "\n".join(
        "".join(traceback.format_tb(one.__traceback__)) + type(one).__name__
        for one in islice(_causes(error), MAX_CAUSES)
    )


def _causes(error: BaseException | None) -> "list[BaseException]":
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found
