"""Architectures that the installed mlx-lm can load, found by parsing its source, not importing it.

mlx-lm loads the classes `Model` and `ModelArgs` from the module `mlx_lm.models.MODEL_TYPE`, after
looking up the name in two remapping tables (`_get_classes` in its utils).
"""

import ast
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_CLASSES = {"Model", "ModelArgs"}


_NAME = re.compile(r"[\w-]{1,100}", re.ASCII)
"""Valid module name. A config.json can name anything, and results are cached for every name."""


_PARSING = threading.Lock()
"""Serializes parsing. Python 3.11 counts the depth of a syntax tree in a variable shared by all
threads, and raises SystemError if two of them parse concurrently (gh-106905)."""


def loadable(model_type: str, architectures: tuple[str, ...] = ()) -> bool:
    """True if mlx-lm has a module for this model_type and these architectures."""
    return _is_model(_module(model_type, architectures))


def fields(model_type: str, architectures: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """Keys of config.json that an architecture takes, with defaults; empty if mlx-lm lacks it.

    The default is None if there is none or it is not a literal. Keys of the language model inside
    it are included, although config.json has them in a nested part.
    """
    return _fields(_module(model_type, architectures))


def _module(model_type: str, architectures: tuple[str, ...]) -> str:
    """Name of the module that mlx-lm would import, which may not exist."""
    by_architecture = _table("MODEL_ARCHITECTURE_REMAPPING")
    for architecture in architectures:
        if (model_type, architecture) in by_architecture:
            return by_architecture[model_type, architecture]
    name = _table("MODEL_REMAPPING").get(model_type, model_type)
    return name if _NAME.fullmatch(name) else ""


@cache
def _is_model(module: str) -> bool:
    """True if the module exists and defines or imports both classes."""
    names: set[str] = set()
    for node in _parsed(module):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names >= _CLASSES


@cache
def _fields(module: str) -> Mapping[str, Any]:
    """Fields of the module's own arguments, then of the models that it builds on."""
    found: dict[str, Any] = {}
    others: list[str] = []
    for node in _parsed(module):
        if isinstance(node, ast.ClassDef) and _is_arguments(node):
            for name, default in _annotated(node):
                if found.get(name) is None:
                    found[name] = default
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            if node.module is None:
                others += [alias.name for alias in node.names]
            elif any("Model" in alias.name for alias in node.names):
                others.append(node.module)
    for other in others:
        if other != module and _is_model(other):
            found = dict(_fields(other)) | found
    return found


def _is_arguments(node: ast.ClassDef) -> bool:
    """True if the class holds keys of config.json: its name or a base's ends in `ModelArgs`."""
    names = [node.name, *(ast.unparse(base) for base in node.bases)]
    return any(name.endswith("ModelArgs") for name in names)


def _annotated(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Fields of a dataclass, with their defaults."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            try:
                default = ast.literal_eval(field.value) if field.value is not None else None
            except ValueError:  # a call, such as field(...)
                default = None
            yield field.target.id, default


def _parsed(module: str) -> tuple[ast.stmt, ...]:
    """Top-level statements of a model module; empty if it does not exist."""
    file = _package() / "models" / f"{module}.py"
    if not module or not file.is_file():
        return ()
    return tuple(_parse(file).body)


def _parse(file: Path) -> ast.Module:
    source = file.read_text("utf-8")
    with _PARSING:
        return ast.parse(source)


@cache
def _table(name: str) -> dict[Any, str]:
    """A remapping table from mlx-lm's source; empty if there is none of that name."""
    for node in _parse(_package() / "utils.py").body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            table: dict[Any, str] = ast.literal_eval(node.value)
            return table
    return {}


def _package() -> Path:
    spec = find_spec("mlx_lm")  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("mlx-lm is not installed")
    return Path(spec.submodule_search_locations[0])
