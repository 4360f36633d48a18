"""Log errors of completions by location and type, without content of the request."""

import sys
import traceback


def log_error(error: Exception) -> None:
    """Print an error's frames and type, but not its message, which may quote a prompt."""
    traceback.print_tb(error.__traceback__)
    print(type(error).__name__, file=sys.stderr)
