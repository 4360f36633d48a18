"""Settings that were found in files of another program, and the manifest that they become."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.cli.output import yaml_text
from reconciler.core.snapshot import API_VERSION, KIND, read_file

MAX_BYTES = 1_000_000
"""Of a file of settings."""

MAX_NAME = 200


@dataclass(frozen=True)
class Found:
    """One preset or model of another program."""

    origin: str
    """What is shown of it: a file or a name."""
    names: tuple[str, ...]
    """By which `--map` names it."""
    model: str | None = None
    """None: MLX can load none of that name."""
    config: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Settings that have no counterpart."""
    problem: str | None = None
    """Why it cannot be read."""

    @property
    def record(self) -> str:
        """The name of the record."""
        name = re.sub(r"[^A-Za-z0-9._/@:-]+", "-", self.names[0])
        return re.sub(r"^[^A-Za-z0-9]+", "", name)[:MAX_NAME] or "imported"


def manifest(one: Found, model: str) -> tuple[str, str | None]:
    """The manifest, and why it would not be valid."""
    spec: dict[str, Any] = {"model": model}
    if one.config:
        spec["config"] = one.config
    if one.defaults:
        spec["defaults"] = one.defaults
    metadata = {"name": one.record}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    text = yaml_text(document)
    flaws = read_file("manifest", text.encode("utf-8", "surrogatepass")).flaws
    return text, "; ".join(flaw.message for flaw in flaws) or None


def file_name(record: str) -> str:
    """The file for a record's manifest."""
    return re.sub(r"[/:@]", "-", record) + ".yaml"


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file. Raises OSError or ValueError."""
    value = json.loads(read_text(path))
    if not isinstance(value, dict):
        raise ValueError("it holds no object")  # noqa: TRY004  it is the file's value
    return value


def read_text(path: Path) -> str:
    """A small text file. Raises OSError or ValueError."""
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return data.decode("utf-8")
