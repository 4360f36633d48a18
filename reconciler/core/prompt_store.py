"""Location of prompts on disk, and names of the files that the daemon and the workers share."""

import re
from dataclasses import dataclass

KEY = "key"
"""File with the secret key of all file names."""

LOCK = "lock"
"""File that a worker locks while it writes or deletes; it holds the size of all prompts [bytes]."""

COUNT_BYTES = 20
"""Length of the size in `LOCK`, in decimal digits."""

SUFFIX = ".safetensors"
"""Suffix of the files of prompts, whose sizes count."""

TAG = "CACHEDIR.TAG"
"""File that excludes the directory from backups, and marks it as one of prompts by its content."""

TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Prompts kept by reconciler\n"
"""Content of `TAG`; source: bford.info/cachedir. Caches of other programs have the first line."""

CHECKPOINT = "checkpoint"
"""File in each checkpoint's directory that holds the checkpoint's path."""

DIRECTORY_LENGTH = 16
"""Length of the names of the checkpoints' directories, in hexadecimal digits."""

DIRECTORY = re.compile(rf"[0-9a-f]{{{DIRECTORY_LENGTH}}}")
"""Names of the checkpoints' directories. Others are not touched: a user may name any directory."""


def count_text(size: int) -> bytes:
    """Content of `LOCK` for a size of all prompts [bytes]."""
    return f"{max(0, size):0{COUNT_BYTES}d}".encode()


@dataclass(frozen=True)
class PromptStore:
    """The prompts of one checkpoint on disk."""

    root: str
    """Directory of all checkpoints' prompts."""
    directory: str
    """Name of the checkpoint's directory in it."""
    checkpoint: str
    """Path of the checkpoint."""
    fingerprint: str
    """State of the files of the checkpoint, and of the session's adapter."""
    most_bytes: int
    """Maximum size of the prompts of all checkpoints."""
