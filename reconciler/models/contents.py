"""Files of a checkpoint that a load reads: their names, sizes and fingerprint.

The worker's mlx_lm opens these files without checking them. A pipe or a device would block it for
ever, and a file of 40 GB would exhaust its memory, so each file is checked first.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler.models.embedder import module_directories
from reconciler.models.files import FaultyFileError, error_of, is_directory, names_in
from reconciler.models.jsonfile import MAX_BYTES

TEMPLATES = "additional_chat_templates"
"""Directory of a checkpoint's further chat templates."""

_READ = (".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt")

_WEIGHTS = ".safetensors"

_LARGEST = {
    "config.json": MAX_BYTES,
    "generation_config.json": MAX_BYTES,
    "tokenizer_config.json": MAX_BYTES,
    "special_tokens_map.json": MAX_BYTES,
    "added_tokens.json": MAX_BYTES,
    "adapter_config.json": MAX_BYTES,
    "hf_quant_config.json": MAX_BYTES,
    "chat_template.json": MAX_BYTES,
    "tokenizer.json": 300_000_000,
    "vocab.json": 300_000_000,
    "vocab.txt": 300_000_000,
    "merges.txt": 300_000_000,
}
"""Maximum bytes. Published tokenizer.json files reach 35 million, the other tokenizer files 10
million, the rest 2 million."""

_EFFECTIVE = os.access in os.supports_effective_ids

_LARGEST_BY_SUFFIX = {".jinja": 1_000_000, ".model": 300_000_000, ".tiktoken": 300_000_000}


def files_of(path: Path) -> Mapping[str, os.stat_result]:
    """Files that a load reads in the checkpoint directory `path`, by name.

    Raises `FaultyFileError` for the first file that would block a load or exceeds its maximum size;
    OSError or ValueError if the directory cannot be read.
    """
    found = {}
    for name in _names(path):
        file = path / name
        if file.suffix not in _READ:
            continue
        status = _status(file)
        if status is None:
            continue
        found[name] = status
        if stat.S_ISDIR(status.st_mode) and not _is_named(file):
            continue
        if not stat.S_ISREG(status.st_mode) and file.suffix != _WEIGHTS:
            words = "it is not a regular file; a load would hang on it"
            raise FaultyFileError(file, words)
        largest = _LARGEST.get(file.name) or _LARGEST_BY_SUFFIX.get(file.suffix)
        if largest is not None and status.st_size > largest:
            words = f"it has {status.st_size} bytes; the maximum for this file is {largest}"
            raise FaultyFileError(file, words)
        if _is_named(file) and not os.access(file, os.R_OK, effective_ids=_EFFECTIVE):
            raise FaultyFileError(file, "cannot be read: Permission denied")
    return found


def fingerprint(path: Path) -> str:
    """Hash over names, sizes and modification times of the files that a load reads.

    Raises `LoadError` `InvalidCheckpoint` if they cannot be read.
    """
    try:
        return fingerprint_of(files_of(path))
    except Exception as error:  # noqa: BLE001  file systems can raise any exception
        raise error_of(error, path) from None


def fingerprint_of(files: Mapping[str, os.stat_result]) -> str:
    """Same hash as `fingerprint`, over the result of `files_of`."""
    digest = hashlib.sha256()
    for name, status in files.items():
        words = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(words.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _names(path: Path) -> Iterator[str]:
    names = names_in(path)
    yield from names
    for directory in (TEMPLATES, *module_directories(names)):
        if is_directory(path / directory):
            yield from (f"{directory}/{name}" for name in names_in(path / directory))


def _status(file: Path) -> os.stat_result | None:
    """File status; None if the file is inaccessible and not read by a load."""
    try:
        return file.stat()
    except OSError as error:
        broken = error.errno == errno.ENOENT and file.is_symlink()
        if broken and file.suffix == _WEIGHTS:
            raise FaultyFileError(
                file.parent, f"incomplete: {file.name} is a broken link"
            ) from None
        if not _is_named(file) and file.suffix != _WEIGHTS:
            return None
        if not broken:
            raise
        raise FaultyFileError(file, "it is a broken link") from None


def _is_named(file: Path) -> bool:
    """True if a load opens the file by its name."""
    return file.name in _LARGEST or file.suffix in _LARGEST_BY_SUFFIX
