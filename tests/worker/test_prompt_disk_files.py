"""Test files of KV caches that are damaged, exchanged or gone."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.store import PromptDisk
from tests.worker.prompt_disks import (
    FILLED,
    LONG,
    fetched,
    files,
    save,
    scope,
    store,
)


def replaced(data: bytes, entry: dict[str, Any]) -> bytes:
    """A file whose only array is described as `entry`."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:][:length])["__metadata__"]
    size = 4 if entry["shape"] == [] else 0
    entry = entry | {"data_offsets": [0, size]}
    head = json.dumps({"__metadata__": metadata, "rows 0/keys": entry}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "cut off": lambda data: data[:-100],
    "longer": lambda data: data + b"\0",
    "empty": lambda _: b"",
    "not ours": lambda _: b"\xff" * 100,
    "huge header": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "deep header": lambda _: (20000).to_bytes(8, "little") + b"[" * 20000,
    "huge array": lambda data: data.replace(b"[1, 1, 128", b"[1, 9999999999, 128"),
    "negative": lambda data: data.replace(b"[1, 1, 128", b"[-1, -1, 128"),
    "no sum": lambda data: data.replace(b"crc32", b"crc33"),
    "another type": lambda data: data.replace(b"F32", b"I32"),
    "no type": lambda data: data.replace(b"F32", b"F99"),
    "no room for a row": lambda data: replaced(data, {"dtype": "F32", "shape": [0, 2**62]}),
    "many axes": lambda data: replaced(data, {"dtype": "F32", "shape": [0] * 100}),
    "no axes": lambda data: replaced(data, {"dtype": "F32", "shape": []}),
    "offsets": lambda data: data.replace(b'"data_offsets": [0', b'"data_offsets": [8'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_deleted_and_the_prompt_before_it_is_used(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    key = disk.key
    assert key is not None
    third = scope(disk).names(key).blocks(np.arange(LONG))[3]
    (file,) = [one for one in files(tmp_path) if one.stem == third]
    data = DAMAGES[damage](file.read_bytes())
    assert data != file.read_bytes()
    file.write_bytes(data)
    again = PromptDisk(store(tmp_path))
    assert fetched(scope(again), range(LONG + 9))[1] == 2 * BLOCK
    assert not file.exists()
    assert capfd.readouterr().err.count("damaged") == 1


def test_a_file_under_another_name_counts_as_damaged(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    save(disk, [7] * LONG, FILLED())
    assert disk.key is not None
    names = scope(disk).names(disk.key)
    place = tmp_path / "prompts" / ("0" * 16)
    mine, other = (
        place / f"{names.blocks(np.asarray(t))[3]}.safetensors" for t in (range(LONG), [7] * LONG)
    )
    other.replace(mine)
    assert fetched(scope(disk), range(LONG + 9))[1] == 2 * BLOCK


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, make: Any) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert disk.key is not None
    third = scope(disk).names(disk.key).blocks(np.arange(LONG))[3]
    path = tmp_path / "prompts" / ("0" * 16) / f"{third}.safetensors"
    path.unlink()
    make(path)
    assert fetched(scope(disk), range(LONG + 9))[1] == 2 * BLOCK


def test_a_file_that_another_worker_deleted_counts_as_not_there(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    for file in files(tmp_path):
        file.unlink()
    assert fetched(scope(disk), range(LONG + 9)) == (None, 0)
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG
