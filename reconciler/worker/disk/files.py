"""Read and write one prompt file: the safetensors format with a checksum.

mlx-lm's `save_prompt_cache` is not used: it writes whole caches on the MLX thread, and its reader
creates whatever class a file names and detects no damage. Here arrays are written and read one at a
time on other threads, and a file is only used if its CRC-32 is right. The checksum covers the name,
so a file under another name counts as damaged.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": np.uint16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
}
"""numpy's types by safetensors' names; numpy has no bfloat16."""

HEADER_BYTES = 2**20
"""Maximum length of a header; one array takes about 100 bytes of it."""

NO_SUM = "00000000"


@dataclass(frozen=True)
class Part:
    """An array to write."""

    name: str
    kind: str
    """safetensors' name of the type."""
    shape: tuple[int, ...]
    nbytes: int
    copy: Callable[[], Array]
    """Returns a copy of its values. Raises `EndedError`."""


class EndedError(Exception):
    """The memory of the values is needed for something else."""


class DamagedError(Exception):
    """The file is not one that `write` wrote under this name."""


def size(parts: Sequence[Part], state: str) -> int:
    """Size of the file that `write` writes [bytes]."""
    return 8 + len(_head(parts, state)) + sum(part.nbytes for part in parts)


def write(path: Path, name: str, parts: Sequence[Part], state: str) -> int:
    """Write a new file with mode 0600; return its size. Raises OSError or `EndedError`.

    Nothing is flushed to the disk: after a power cut the checksum shows what is missing. However
    long the disk takes, no more than a copy of one part is held.
    """
    head = _head(parts, state)
    written = 8 + len(head)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        checksum = crc32(head, crc32(name.encode()))
        for part in parts:
            values = part.copy().reshape(-1).view(np.uint8).data
            checksum = crc32(values, checksum)
            written += file.write(values)
            del values
        file.seek(8 + head.index(NO_SUM.encode()))
        file.write(f"{checksum:08x}".encode())
    return written


def _head(parts: Sequence[Part], state: str) -> bytes:
    """The header, with a blank checksum."""
    header: dict[str, Any] = {"__metadata__": {"crc32": NO_SUM, "state": state}}
    offset = 0
    for part in parts:
        ends = [offset, offset + part.nbytes]
        header[part.name] = {"dtype": part.kind, "shape": list(part.shape), "data_offsets": ends}
        offset = ends[1]
    return json.dumps(header).encode()


@dataclass(frozen=True)
class Entry:
    """An array of a file."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def empty(self) -> Array:
        """A new array of this shape."""
        return np.empty(self.shape, TYPES[self.kind])


def _open(path: str, flags: int) -> int:
    """Open a file without following a link, or waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def read_small(path: Path, most: int) -> bytes:
    """Read a file, up to one byte above `most`; nothing from a pipe. Raises OSError."""
    with open(path, "rb", opener=_open) as file:
        return bytes(file.read(most + 1) or b"")


class Reader:
    """Reads a file from its beginning to its end. Use as a context manager."""

    def __init__(self, path: Path, name: str) -> None:
        """Open a file and read its header. Raises OSError or `DamagedError`."""
        # `Path.open` takes no opener.
        self._file: BinaryIO = open(path, "rb", opener=_open)  # noqa: SIM115
        try:
            self._read_header(name)
        except DamagedError:
            self._file.close()
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self._file.close()
            raise DamagedError from None
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, name: str) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        if not 0 < length <= HEADER_BYTES:
            raise DamagedError
        head = self._file.read(length)
        header: Mapping[str, Any] = json.loads(head)
        metadata = header["__metadata__"]
        self.state = str(metadata["state"])
        self._expected = str(metadata["crc32"])
        self.entries: list[Entry] = []
        offset = 0
        for array_name, found in header.items():
            if array_name == "__metadata__":
                continue
            shape = tuple(found["shape"])
            if not all(type(length) is int and length >= 0 for length in shape):
                raise DamagedError
            end = offset + prod(shape) * np.dtype(TYPES[found["dtype"]]).itemsize
            if found["data_offsets"] != [offset, end]:
                raise DamagedError
            self.entries.append(Entry(array_name, found["dtype"], shape))
            offset = end
        if os.fstat(self._file.fileno()).st_size != 8 + length + offset:
            raise DamagedError
        blank = head.replace(self._expected.encode(), NO_SUM.encode(), 1)
        self._sum = crc32(blank, crc32(name.encode()))

    def read(self, entry: Entry) -> Array:
        """Read the next array, which is `entry`. Raises OSError or `DamagedError`."""
        array = entry.empty
        values = array.reshape(-1).view(np.uint8).data
        if self._file.readinto(values) != len(values):  # type: ignore[attr-defined]
            raise DamagedError
        self._sum = crc32(values, self._sum)
        return array

    def check(self) -> None:
        """Check what was read. Raises `DamagedError`. Call it after the last array."""
        if f"{self._sum:08x}" != self._expected:
            raise DamagedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
