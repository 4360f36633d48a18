"""Weight files of a checkpoint and the tensors in their headers.

MLX reads every `model*.safetensors` in the directory and ignores the index. The index is read here
for one purpose only: to report a missing shard before a load. An index that does not match the
files (older than a conversion, or for a part of them) is ignored.
"""

import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from reconciler.models.files import FaultyFileError, exists, names_in, open_regular, read_bytes

MAX_HEADER = 10_000_000
"""Bytes. The format allows 100 million; a header for 75,000 tensors has 10 million."""

_MODEL = re.compile(r"model[^/]*\.safetensors", re.DOTALL)

_NUMBERED = re.compile(r"(model.*-)(\d{5})-of-(\d{5})\.safetensors")

MAX_HEADERS = 60_000_000
"""Bytes of all headers of a checkpoint. The largest published models have 30 million."""

MAX_INDEX = 10_000_000
"""Bytes. The largest published index files have 9 million; a larger one is ignored."""

MAX_DIMENSIONS = 16
"""Dimensions of a tensor; MLX's kernels support 8."""

NAMED = 5
"""Number of missing shards listed in an error."""

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes per item of the format's byte-aligned dtypes. MLX checks sizes against shapes on load."""

_OTHER_FORMATS = {
    ".gguf": "GGUF, llama.cpp's format",
    ".bin": "a pickle, which can run code and is never opened",
    ".pt": "a pickle, which can run code and is never opened",
    ".pth": "a pickle, which can run code and is never opened",
    ".npz": "in NumPy's format",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor as described by its header."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes."""


class _Entry(msgspec.Struct):
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    """The part of an index that is used: the file of each tensor."""

    weight_map: dict[str, str] = {}


# Typed decoders fail at the first wrong value of a hostile file. An untyped parser would create
# millions of objects first and block the event loop for seconds.
_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_METADATA = msgspec.json.Decoder(dict[str, str] | None)
_ENTRY = msgspec.json.Decoder(_Entry)
_INDEX = msgspec.json.Decoder(_Index)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the headers of the checkpoint in directory `path`; return the tensors by name.

    Raises `FaultyFileError`; OSError or ValueError if the directory cannot be read.
    """
    shards = shards_of(path)
    if not shards:
        raise FaultyFileError(path, _none(path))
    tensors: dict[str, Tensor] = {}
    left = MAX_HEADERS
    for shard in shards:
        found, size = _read_header(shard)
        tensors |= found
        left -= size
        if left < 0:
            raise FaultyFileError(path, f"its headers have more than {MAX_HEADERS} bytes")
    names = {shard.name for shard in shards}
    weight_map = _weight_map(path, names)
    first, count = _missing_by_index(weight_map, names, tensors)
    if not count and not (weight_map and weight_map.keys() <= tensors.keys()):
        first, count = _missing_by_number(names)
    if count:
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise FaultyFileError(path, f"incomplete: {', '.join(first)}{more} missing")
    return tensors


def shards_of(path: Path) -> list[Path]:
    """Weight files in a directory, sorted. Raises OSError or ValueError as `names_in`."""
    return [path / name for name in names_in(path) if _MODEL.fullmatch(name)]


def _none(path: Path) -> str:
    names = names_in(path)
    for suffix, kind in _OTHER_FORMATS.items():
        for name in names:
            if name.endswith(suffix):
                return f"{name} is {kind}; MLX needs safetensors files, and there are none"
    return "no model*.safetensors file in it"


def _missing_by_number(names: Iterable[str]) -> tuple[list[str], int]:
    """Names of the first missing shards, and the total missing, from the numbers in file names.

    Returns none if any set of files is complete. A leftover shard of another set does not make a
    complete set incomplete.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            return [], 0
        stem, number, total = numbered.groups()
        numbers.setdefault((stem, total), set()).add(int(number))
    first: list[str] = []
    count = 0
    for (stem, total), present in sorted(numbers.items()):
        absent = (n for n in range(1, int(total) + 1) if n not in present)
        some = list(islice(absent, NAMED))
        if not some:
            return [], 0
        first += [f"{stem}{n:05}-of-{total}.safetensors" for n in some]
        count += int(total) - sum(1 <= n <= int(total) for n in present)
    return first[:NAMED], count


def _weight_map(path: Path, names: set[str]) -> dict[str, str]:
    """The index: the file of each tensor. Empty if there is none or none of its files exists.

    An index without any existing file is left over from a conversion.
    """
    try:
        data = read_bytes(path / "model.safetensors.index.json", MAX_INDEX)
        weight_map = _INDEX.decode(data).weight_map
    except (OSError, ValueError, RecursionError):
        return {}  # MLX does not read it
    return weight_map if names & set(weight_map.values()) else {}


def _missing_by_index(
    weight_map: dict[str, str], names: set[str], tensors: dict[str, Tensor]
) -> tuple[list[str], int]:
    """First files that the index names but the directory lacks, and how many in total.

    Files count only if one of their tensors is in no other file; MLX reads only
    `model*.safetensors`.
    """
    missing = {
        file
        for tensor, file in weight_map.items()
        if _MODEL.fullmatch(file) and file not in names and tensor not in tensors
    }
    return sorted(missing)[:NAMED], len(missing)


def read_header(shard: Path) -> dict[str, Tensor]:
    """Read the tensors of one file. The format: u64 little-endian header length, JSON, data.

    Raises `FaultyFileError`, and OSError.
    """
    return _read_header(shard)[0]


def _read_header(shard: Path) -> tuple[dict[str, Tensor], int]:
    """Read the tensors of one file; return them and the size of its header in bytes."""
    if shard.is_symlink() and not exists(shard):
        raise FaultyFileError(shard.parent, f"incomplete: {shard.name} is a broken link")
    try:
        with open_regular(shard) as file:
            actual = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too large")
            header = _HEADER.decode(file.read(length))
        tensors, spans = {}, []
        for name, entry in header.items():
            if name == "__metadata__":
                _METADATA.decode(entry)
            else:
                tensors[name], span = _tensor(_ENTRY.decode(entry))
                spans.append(span)
        _check_apart(spans)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  a hostile header can raise any exception
        raise FaultyFileError(shard, f"not a safetensors file: {error!s:.200}") from None
    end = 8 + length + max((end for _, end in spans), default=0)
    if actual < end:
        raise FaultyFileError(shard, f"truncated: {actual} bytes of {end}")
    return tensors, length


def _check_apart(spans: list[tuple[int, int]]) -> None:
    """Raise ValueError if the data of two tensors overlap; they would be counted twice."""
    last = 0
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if begin < last:
            raise ValueError("data_offsets overlap")
        last = end


def _tensor(entry: _Entry) -> tuple[Tensor, tuple[int, int]]:
    """Convert a header entry to a tensor and its data span. Raises ValueError if malformed."""
    (begin, end), shape = entry.data_offsets, entry.shape
    if len(shape) > MAX_DIMENSIONS or min((begin, *shape)) < 0 or begin > end:
        raise ValueError("malformed data_offsets or shape")
    item = _ITEM_BYTES.get(entry.dtype)
    if item is not None and math.prod(shape) * item != end - begin:
        raise ValueError("data_offsets do not fit dtype and shape")
    return Tensor(entry.dtype, shape, end - begin), (begin, end)
