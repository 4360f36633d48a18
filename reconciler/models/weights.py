"""The weight files of a checkpoint: which there are, and the tensors that their headers list.

MLX reads every `model*.safetensors` in the directory and nothing else; the index is not used. It
is read here for one purpose: to name a shard that is missing before anything is loaded. An index
that does not fit the files (written before a conversion, or for part of them) does no harm.
"""

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.models.files import is_file
from reconciler.models.jsonfile import optional_object

MAX_HEADER = 100_000_000
"""Bytes; the safetensors format's own limit."""

_NUMBERED = re.compile(r"(model.*-)(\d{5})-of-(\d{5})\.safetensors")

MAX_SHARDS = 10_000
"""Of one numbering; a file name can claim 99,999."""

_OTHER_FORMATS = (
    ("*.gguf", "GGUF, llama.cpp's format"),
    ("*.bin", "a pickle, which can run code and is never opened"),
    ("*.pt", "a pickle, which can run code and is never opened"),
    ("*.pth", "a pickle, which can run code and is never opened"),
    ("*.npz", "NumPy's format"),
)


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes."""


class WeightsError(ValueError):
    """Weight files that MLX cannot read. `path` is the file or directory that is at fault."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the checkpoint in directory `path`, by name.

    Raises `WeightsError`.
    """
    shards = sorted(path.glob("model*.safetensors"))
    if not shards:
        raise WeightsError(path, _none(path))
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= read_header(shard)
    names = {shard.name for shard in shards}
    weight_map = _weight_map(path, names)
    missing = _missing_by_index(weight_map, names, tensors)
    if not weight_map or not weight_map.keys() <= tensors.keys():
        missing |= _missing_by_number(names)
    if missing:
        first = sorted(missing)[:5]
        more = f" and {len(missing) - len(first)} more" if len(missing) > len(first) else ""
        raise WeightsError(path, f"incomplete: {', '.join(first)}{more} missing")
    return tensors


def _none(path: Path) -> str:
    for pattern, kind in _OTHER_FORMATS:
        other = next(path.glob(pattern), None)
        if other is not None:
            return f"{other.name} is {kind}; MLX loads safetensors, and none are there"
    return "no model*.safetensors file in it"


def _missing_by_number(names: Iterable[str]) -> set[str]:
    """Shards that the names of others count; empty if any set of files is complete by itself.

    A shard that is left of another set beside a complete one does not make that incomplete.
    """
    present = set(names)
    missing: set[str] = set()
    for name in sorted(present):
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            return set()
        stem, _, total = numbered.groups()
        count = range(1, min(int(total), MAX_SHARDS) + 1)
        absent = {f"{stem}{n:05}-of-{total}.safetensors" for n in count} - present
        if not absent:
            return set()
        missing |= absent
    return missing


def _weight_map(path: Path, names: set[str]) -> dict[str, str]:
    """The index: the file of each tensor. Empty without one that names a file which is there.

    An index of which no file is there belongs to other files: it was left of a conversion.
    """
    found = optional_object(path / "model.safetensors.index.json").get("weight_map")
    pairs = found.items() if isinstance(found, dict) else ()
    weight_map = {tensor: file for tensor, file in pairs if isinstance(file, str)}
    return weight_map if names & set(weight_map.values()) else {}


def _missing_by_index(
    weight_map: dict[str, str], names: set[str], tensors: dict[str, Tensor]
) -> set[str]:
    """Files that the index names, with tensors that no file has. MLX reads no others."""
    return {
        file
        for tensor, file in weight_map.items()
        if re.fullmatch(r"model[^/]*\.safetensors", file)
        and file not in names
        and tensor not in tensors
    }


def read_header(shard: Path) -> dict[str, Tensor]:
    """The tensors of one file. The format: u64 little-endian header length, JSON, data.

    Raises `WeightsError`.
    """
    if not is_file(shard):  # opening a pipe would wait for ever
        kind = "a broken link" if shard.is_symlink() else "no regular file"
        raise WeightsError(shard.parent, f"incomplete: {shard.name} is {kind}")
    try:
        with shard.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too large")
            header = json.loads(file.read(length))
        tensors, end = {}, 0
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name], stop = _tensor(entry)
                end = max(end, stop)
    except Exception as error:  # noqa: BLE001  a hostile header raises what it likes
        raise WeightsError(shard, f"not a safetensors file: {error!s:.200}") from None
    actual, end = shard.stat().st_size, 8 + length + end
    if actual < end:
        raise WeightsError(shard, f"truncated: {actual} bytes of {end}")
    return tensors


def _tensor(entry: Any) -> tuple[Tensor, int]:
    """A header's entry, and where its data end. Raises ValueError and others where malformed."""
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    numbers = (begin, end, *shape)
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("malformed entry")
    if begin > end:
        raise ValueError("malformed data_offsets")
    return Tensor(dtype, shape, end - begin), end
