"""The files of a checkpoint that a load reads: what they are, how large, and their fingerprint.

The worker's mlx_lm opens these files without asking what they are. A pipe or a device among them
would make it wait for ever, and a file of 40 GB would fill its memory; so each is looked at first.
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
"""Bytes. Of published ones, tokenizer.json has up to 35 million, the others up to 10 and 2."""

_EFFECTIVE = os.access in os.supports_effective_ids

_LARGEST_BY_SUFFIX = {".jinja": 1_000_000, ".model": 300_000_000, ".tiktoken": 300_000_000}


def files_of(path: Path) -> Mapping[str, os.stat_result]:
    """The files of the checkpoint in directory `path` that a load reads, by name.

    Raises `FaultyFileError` naming the first that a load would wait for, or could not hold;
    OSError or ValueError where the directory cannot be read.
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
            words = "it is not a regular file; loading would wait for it for ever"
            raise FaultyFileError(file, words)
        largest = _LARGEST.get(file.name) or _LARGEST_BY_SUFFIX.get(file.suffix)
        if largest is not None and status.st_size > largest:
            words = f"it has {status.st_size} bytes, and no such file of a model has {largest}"
            raise FaultyFileError(file, words)
        if _is_named(file) and not os.access(file, os.R_OK, effective_ids=_EFFECTIVE):
            raise FaultyFileError(file, "cannot be read: Permission denied")
    return found


def fingerprint(path: Path) -> str:
    """Of the files that a load reads: their names, sizes and times of change.

    Raises `LoadError` `InvalidCheckpoint` where they cannot be read.
    """
    try:
        return fingerprint_of(files_of(path))
    except Exception as error:  # noqa: BLE001  file systems raise what they like
        raise error_of(error, path) from None


def fingerprint_of(files: Mapping[str, os.stat_result]) -> str:
    """Of what `files_of` found."""
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
    """None for what cannot be looked at and is read by nobody."""
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
    """True if a load reads the file by its name."""
    return file.name in _LARGEST or file.suffix in _LARGEST_BY_SUFFIX
