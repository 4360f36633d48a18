"""JSON files of a checkpoint, read as mlx_lm reads them: UTF-8 text without a byte-order mark."""

import codecs
import json
from pathlib import Path
from typing import Any

from reconciler.models.files import FaultyFileError, faulty, read_bytes

MAX_BYTES = 5_000_000
"""Of one file, if nothing else is said. Parsing holds up the event loop, for a tenth of a second
at this size; the largest published files have about one million."""


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes.

    Raises OSError, ValueError, or RecursionError for a deeply nested one.
    """
    data = read_bytes(path, most)
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError(
            "it begins with a byte-order mark, which mlx_lm does not read; save it without one"
        )
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  of a file, not of a caller
    return value


def optional_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file.

    Raises `FaultyFileError` where it holds something else, and OSError.
    """
    try:
        return read_object(path, most)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  hostile files raise what they like
        raise faulty(path, error) from None


def lenient_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file or it holds something else."""
    try:
        return optional_object(path, most)
    except (OSError, FaultyFileError):
        return {}
