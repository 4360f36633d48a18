"""JSON files of a checkpoint, read as mlx_lm reads them: UTF-8 without a byte-order mark."""

import codecs
import json
from pathlib import Path
from typing import Any

from reconciler.models.files import FaultyFileError, faulty, read_bytes

MAX_BYTES = 3_000_000
"""Default maximum size of a file. Parsing blocks the event loop, for 0.1 s at this size; the
largest published files have about one million bytes."""


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file of at most `most` bytes.

    Raises OSError, ValueError, or RecursionError for a deeply nested one.
    """
    data = read_bytes(path, most)
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError(
            "it begins with a byte-order mark, which mlx_lm cannot read; save the file without it"
        )
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  the file is invalid, not an argument
    return value


def optional_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file; empty if the file does not exist.

    Raises `FaultyFileError` if it contains anything else, and OSError.
    """
    try:
        return read_object(path, most)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(path, error) from None


def lenient_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file; empty if the file does not exist or is invalid."""
    try:
        return optional_object(path, most)
    except (OSError, FaultyFileError):
        return {}
