"""What a worker's log has of an error in an answer: where it happened, not what was asked."""

import sys
import traceback


def log_error(error: Exception) -> None:
    """Print frames and type. Its words may repeat a prompt: they are for who asked alone."""
    traceback.print_tb(error.__traceback__)
    print(type(error).__name__, file=sys.stderr)
