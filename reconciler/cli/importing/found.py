"""Settings found in files of another program, and their manifest."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.cli.output import yaml_text
from reconciler.core.snapshot import API_VERSION, KIND, read_file
from reconciler.models.files import read_bytes

MAX_BYTES = 1_000_000
"""Size limit of a settings file."""

MAX_NAME = 200


@dataclass(frozen=True)
class Found:
    """One preset or model of another program."""

    origin: str
    """File or name, for messages."""
    names: tuple[str, ...]
    """Names that `--map` accepts for it."""
    model: str | None = None
    """Model to load; None if MLX can load no model of that name."""
    config: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Settings that have no equivalent."""
    problem: str | None = None
    """Error that prevents reading it."""

    @property
    def record(self) -> str:
        """The name of the record."""
        name = re.sub(r"[^A-Za-z0-9._/@:-]+", "-", self.names[0])
        return re.sub(r"^[^A-Za-z0-9]+", "", name)[:MAX_NAME] or "imported"


def manifest(one: Found, model: str) -> tuple[str, str | None]:
    """The manifest, and its errors if it is invalid."""
    spec: dict[str, Any] = {"model": model}
    if one.config:
        spec["config"] = one.config
    if one.defaults:
        spec["defaults"] = one.defaults
    metadata = {"name": one.record}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    try:
        text = yaml_text(document)
    except RecursionError:
        return "", "its values are nested too deeply"
    flaws = read_file("manifest", text.encode("utf-8", "surrogatepass")).flaws
    return text, "; ".join(flaw.message for flaw in flaws) or None


def file_name(record: str) -> str:
    """File name of a record's manifest."""
    return re.sub(r"[/:@]", "-", record) + ".yaml"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises OSError or ValueError."""
    value = json.loads(read_text(path))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  it is the file's value
    return value


def read_text(path: Path) -> str:
    """Read a text file of limited size. Raises OSError or ValueError."""
    return read_bytes(path, MAX_BYTES).decode("utf-8")
