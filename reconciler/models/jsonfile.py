"""JSON files of a checkpoint, read as mlx_lm reads them: UTF-8 text without a byte-order mark."""

import codecs
import json
from pathlib import Path
from typing import Any

from reconciler.models.files import read_bytes

MAX_BYTES = 100_000_000
"""Of one file. The largest published tokenizer.json and index files have about 30 million."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises OSError, ValueError, or RecursionError for a deeply nested one.
    """
    data = read_bytes(path, MAX_BYTES)
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError(
            "it begins with a byte-order mark, which mlx_lm does not read; save it without one"
        )
    value = json.loads(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  of a file, not of a caller
    return value


def optional_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file or it holds something else."""
    try:
        return read_object(path)
    except (OSError, ValueError, RecursionError):
        return {}
