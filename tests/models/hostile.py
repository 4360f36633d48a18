"""Hostile checkpoints: each is a healthy directory with one kind of damage."""

import json
import os
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = "[" * 100_000


def configure(checkpoint: Path, **values: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), "utf-8")


def header(checkpoint: Path, entries: object, data: bytes = b"") -> None:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(**values: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | values


def write(file: str, text: str | bytes) -> Callable[[Path], object]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda path: (path / file).write_bytes(data)


def offsets(*pair: object) -> Callable[[Path], object]:
    return lambda path: header(path, {"a": entry(data_offsets=list(pair))}, b"\0" * 64)


def instead(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Replace a file with something else."""

    def damage(path: Path) -> None:
        target = path / file
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        make(target)

    return damage


def sparse(path: Path) -> None:
    """Write a sparse file of 40 GB."""
    with path.open("wb") as file:
        file.truncate(40_000_000_000)


def unix_socket(path: Path) -> None:
    """Create a socket without binding it: macOS limits addresses to 104 bytes."""
    if sys.platform == "linux":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def many_shards(path: Path) -> None:
    (path / "model.safetensors").rename(path / "weights")
    for stem in range(300):
        (path / f"model-{stem}-00001-of-99999.safetensors").symlink_to("weights")


def in_a_circle(path: Path) -> None:
    (path / "config.json").unlink()
    (path / "config.json").symlink_to("config.json")


READ = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
)
"""Files that a load reads."""

PARSED = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""The subset of these files that the daemon parses."""

INDEX = "model.safetensors.index.json"

HARMLESS: dict[str, Callable[[Path], object]] = {
    "index of numbers": write(INDEX, '{"weight_map":{"a":1}}'),
    "index of a list": write(INDEX, '{"weight_map":[]}'),
    "index deep": write(INDEX, DEEP),
    "index not text": write(INDEX, b'{"a": "\xff"}'),
    "index of 40 GB": instead(INDEX, sparse),
    "modules deep": write("modules.json", DEEP),
    "quantisation deep": write("hf_quant_config.json", DEEP),
    "broken link": lambda path: (path / "notes.txt").symlink_to("nowhere"),
}
"""Damage to files that mlx_lm does not read: it loads these checkpoints, and so must we."""

DAMAGES: dict[str, Callable[[Path], object]] = {
    "one offset": offsets(0),
    "negative offsets": offsets(-4, 0),
    "huge offsets": offsets(0, 10**400),
    "offsets of 2^64": offsets(2**64 - 4, 2**64),
    "offsets of NaN": offsets(float("nan"), 4),
    "offsets of infinity": offsets(0, float("inf")),
    "offsets backwards": offsets(8, 4),
    "offsets that do not fit": offsets(0, 8),
    "offsets as text": offsets("0", "4"),
    "overlapping offsets": lambda p: header(
        p, {"a": entry(shape=[2], data_offsets=[0, 8]), "b": entry(data_offsets=[4, 8])}, b"\0" * 8
    ),
    "dtype list": lambda p: header(p, {"a": entry(dtype=[])}, b"\0" * 8),
    "shape negative": lambda p: header(p, {"a": entry(shape=[-1])}, b"\0" * 8),
    "shape huge": lambda p: header(p, {"a": entry(shape=[2**62, 2**62])}, b"\0" * 8),
    "shape without end": lambda p: header(p, {"a": entry(shape=[2**62] * 100_000)}, b"\0" * 8),
    "metadata of numbers": lambda p: header(p, {"__metadata__": {"a": 1}, "b": entry()}, b"\0" * 4),
    "header without end": lambda p: header(
        p, b"{" + b",".join(b'"%x":[]' % n for n in range(300_000)) + b"}"
    ),
    "header too long": lambda p: header(p, b" " * 10_000_001),
    "shape text": lambda p: header(p, {"a": entry(shape="x" * 10_000)}, b"\0" * 8),
    "header deep": lambda p: header(p, DEEP.encode()),
    "header list": lambda p: header(p, []),
    "header number": lambda p: header(p, 5),
    "header bytes": lambda p: header(p, b"\xff\xfe\x00"),
    "header of 2^63": write("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "header empty": write("model.safetensors", b""),
    "shards without end": many_shards,
    "model_type long": lambda p: configure(p, model_type="x" * 100_000),
    "model_type surrogate": write("config.json", '{"model_type": "\\ud800"}'),
    "model_type escapes": lambda p: configure(p, model_type="\x1b[2J\0\n"),
    "model_type list": lambda p: configure(p, model_type=[]),
    "model_type of a path": lambda p: configure(p, model_type="../utils"),
    "config in a circle": in_a_circle,
    "layers without end": lambda p: configure(p, num_hidden_layers=2**40),
    "experts without end": lambda p: configure(p, num_local_experts=2**40),
    "template not text": write("chat_template.jinja", b"\xff\xfe"),
    "generation_config list": write("generation_config.json", "[]"),
    **{f"{file} deep": write(file, DEEP) for file in PARSED},
    **{f"{file} list": write(file, "[]") for file in PARSED},
    **{f"{file} not text": write(file, b'{"a": "\xff"}') for file in PARSED},
    **{f"{file} long number": write(file, '{"a": ' + "9" * 5000 + "}") for file in PARSED[:1]},
    **{f"{file} a pipe": instead(file, os.mkfifo) for file in READ},
    **{
        f"{file} a device": instead(file, lambda p: p.symlink_to("/dev/zero")) for file in READ[:-1]
    },
    **{f"{file} a socket": instead(file, unix_socket) for file in READ[:3]},
    **{f"{file} a directory": instead(file, Path.mkdir) for file in READ},
    **{f"{file} of 40 GB": instead(file, sparse) for file in READ},
}
