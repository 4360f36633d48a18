"""Files are read into the page cache within bounds; real files, and the kernel's own answer."""

import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from reconciler.core.errors import LoadError
from reconciler.models import read_ahead
from reconciler.models.read_ahead import PIECE_BYTES, STEP_BYTES, ReadAhead
from tests.page_cache import cached, drop

SIZE = 3 * STEP_BYTES + 5000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.write(os.urandom(SIZE))
        os.fsync(out.fileno())
    return file


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="mincore reports what is cached on Linux only")
def test_a_file_that_was_dropped_from_the_page_cache_is_read(file: Path) -> None:
    drop(file)
    if cached(file):
        pytest.skip("this file system keeps its files in memory")
    assert ReadAhead(room=lambda: 1).read(file, 0) is None
    until(lambda: cached(file) == 1)


def test_the_weights_of_an_adapter_are_its_files(tmp_path: Path) -> None:
    file = tmp_path / "adapters.safetensors"
    file.write_bytes(b"weights")
    assert ReadAhead().files(tmp_path) == {file: 7}


def test_nothing_is_read_if_memory_is_short(file: Path) -> None:
    advised: list[tuple[int, int]] = []
    reader = ReadAhead(lambda _, at, length: advised.append((at, length)), room=lambda: 0)
    assert reader.read(file, 0) is None
    assert advised == []


def test_a_file_is_advised_in_pieces_and_completely(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 2 * STEP_BYTES)
    advised: list[tuple[int, int]] = []
    reader = ReadAhead(lambda _, at, length: advised.append((at, length)), room=lambda: 1)
    assert reader.read(file, 0) == 2 * STEP_BYTES
    assert reader.read(file, 2 * STEP_BYTES) is None
    assert [at for at, _ in advised] == [0, STEP_BYTES, 2 * STEP_BYTES, 3 * STEP_BYTES]
    assert sum(length for _, length in advised) == SIZE


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="not a regular file"):
        ReadAhead(room=lambda: 1).read(pipe, 0)
    with pytest.raises(OSError, match="No such file"):
        ReadAhead(room=lambda: 1).read(tmp_path / "absent", 0)


def test_a_drive_that_hangs_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "SECONDS", 0.05)
    hanging, answer = os.pipe()

    def advise(*_: int) -> None:
        os.read(hanging, 1)

    reader = ReadAhead(advise, room=lambda: 1)
    with pytest.raises(LoadError, match="does not answer"):
        reader.read(file, 0)
    os.write(answer, b"more than the three calls need")


def test_the_files_are_those_that_mlx_reads(file: Path) -> None:
    (file.parent / "adapters.safetensors").touch()
    (file.parent / "consolidated.bin").touch()
    assert ReadAhead().files(file.parent) == {file: SIZE}


def test_a_part_of_the_memory_stays_available() -> None:
    """The machine that runs this test has some of both."""
    assert read_ahead.available_memory() < psutil.virtual_memory().total


def test_the_argument_of_macos_has_the_layout_of_its_header() -> None:
    """struct radvisory: a 64-bit offset, a 32-bit count, and padding to the struct's alignment."""
    argument = read_ahead.advisory(5 * 2**32, STEP_BYTES)
    assert len(argument) == 16
    assert struct.unpack("<qi", argument[:12]) == (5 * 2**32, STEP_BYTES)
    assert PIECE_BYTES < 2**31
