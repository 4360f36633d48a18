"""The weight files of a checkpoint: which there are, and the tensors that their headers list.

MLX reads every `model*.safetensors` in the directory and nothing else; the index is not used. It
is read here for one purpose: to name a shard that is missing before anything is loaded. An index
that does not fit the files (written before a conversion, or for part of them) does no harm.
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from reconciler.models.files import FaultyFileError, exists, names_in, open_regular
from reconciler.models.jsonfile import lenient_object

MAX_HEADER = 50_000_000
"""Bytes. The format allows 100 million; a header of 400,000 tensors has 50."""

_MODEL = re.compile(r"model[^/]*\.safetensors", re.DOTALL)

_NUMBERED = re.compile(r"(model.*-)(\d{5})-of-(\d{5})\.safetensors")

MAX_HEADERS = 100_000_000
"""Bytes of all headers of a checkpoint. Of the largest published models they are 30 million."""

MAX_INDEX = 30_000_000
"""Bytes. The largest published index files have 10 million."""

NAMED = 5
"""Missing shards that an error names."""

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Of the format's types of whole bytes; MLX compares sizes with shapes when it loads."""

_OTHER_FORMATS = {
    ".gguf": "GGUF, llama.cpp's format",
    ".bin": "a pickle, which can run code and is never opened",
    ".pt": "a pickle, which can run code and is never opened",
    ".pth": "a pickle, which can run code and is never opened",
    ".npz": "NumPy's format",
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the checkpoint in directory `path`, by name.

    Raises `FaultyFileError`, and OSError or ValueError where the directory cannot be read.
    """
    shards = [path / name for name in names_in(path) if _MODEL.fullmatch(name)]
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


def _none(path: Path) -> str:
    names = names_in(path)
    for suffix, kind in _OTHER_FORMATS.items():
        for name in names:
            if name.endswith(suffix):
                return f"{name} is {kind}; MLX loads safetensors, and none are there"
    return "no model*.safetensors file in it"


def _missing_by_number(names: Iterable[str]) -> tuple[list[str], int]:
    """The first shards that the names of others count, and how many; none if any set of files is
    complete by itself.

    A shard that is left of another set beside a complete one does not make that incomplete.
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
    """The index: the file of each tensor. Empty without one that names a file which is there.

    An index of which no file is there belongs to other files: it was left of a conversion.
    """
    found = lenient_object(path / "model.safetensors.index.json", MAX_INDEX).get("weight_map")
    pairs = found.items() if isinstance(found, dict) else ()
    weight_map = {tensor: file for tensor, file in pairs if isinstance(file, str)}
    return weight_map if names & set(weight_map.values()) else {}


def _missing_by_index(
    weight_map: dict[str, str], names: set[str], tensors: dict[str, Tensor]
) -> tuple[list[str], int]:
    """The first files that the index names, with tensors that no file has, and how many.

    MLX reads no others.
    """
    missing = {
        file
        for tensor, file in weight_map.items()
        if _MODEL.fullmatch(file) and file not in names and tensor not in tensors
    }
    return sorted(missing)[:NAMED], len(missing)


def read_header(shard: Path) -> dict[str, Tensor]:
    """The tensors of one file. The format: u64 little-endian header length, JSON, data.

    Raises `FaultyFileError`, and OSError.
    """
    return _read_header(shard)[0]


def _read_header(shard: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of one file, and the bytes of its header."""
    if shard.is_symlink() and not exists(shard):
        raise FaultyFileError(shard.parent, f"incomplete: {shard.name} is a broken link")
    try:
        with open_regular(shard) as file:
            actual = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too large")
            header = json.loads(file.read(length))
        tensors, spans = {}, []
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name], span = _tensor(entry)
                spans.append(span)
        _check_apart(spans)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  a hostile header raises what it likes
        raise FaultyFileError(shard, f"not a safetensors file: {error!s:.200}") from None
    end = 8 + length + max((end for _, end in spans), default=0)
    if actual < end:
        raise FaultyFileError(shard, f"truncated: {actual} bytes of {end}")
    return tensors, length


def _check_apart(spans: list[tuple[int, int]]) -> None:
    """Raise ValueError where two tensors are the same bytes: they would be counted twice."""
    last = 0
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if begin < last:
            raise ValueError("data_offsets overlap")
        last = end


def _tensor(entry: Any) -> tuple[Tensor, tuple[int, int]]:
    """A header's entry, and where its data lie. Raises ValueError and others where malformed."""
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    numbers = (begin, end, *shape)
    if not isinstance(dtype, str) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        raise ValueError("malformed entry")
    if begin > end:
        raise ValueError("malformed data_offsets")
    if dtype in _ITEM_BYTES and math.prod(shape) * _ITEM_BYTES[dtype] != end - begin:
        raise ValueError("data_offsets do not fit dtype and shape")
    return Tensor(dtype, shape, end - begin), (begin, end)
