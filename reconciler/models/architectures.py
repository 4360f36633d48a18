"""Which architectures the installed mlx-lm can load, read from its files without importing it.

mlx-lm takes the module `mlx_lm.models.MODEL_TYPE`, by way of two tables of other names, and its
classes `Model` and `ModelArgs` (`_get_classes` in its utils).
"""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_CLASSES = {"Model", "ModelArgs"}


def loadable(model_type: str, architectures: tuple[str, ...]) -> bool:
    """Whether mlx-lm has a module for what a config.json names."""
    by_architecture = _table("MODEL_ARCHITECTURE_REMAPPING")
    for architecture in architectures:
        if (model_type, architecture) in by_architecture:
            return _is_model(by_architecture[model_type, architecture])
    return _is_model(_table("MODEL_REMAPPING").get(model_type, model_type))


@cache
def _is_model(module: str) -> bool:
    """Whether there is such a module, with both classes defined or imported in it."""
    file = _package() / "models" / f"{module}.py"
    if not re.fullmatch(r"[\w-]+", module) or not file.is_file():
        return False
    names: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names >= _CLASSES


@cache
def _table(name: str) -> dict[Any, str]:
    """A table of other names, as it stands in mlx-lm's source; empty where there is none."""
    tree = ast.parse((_package() / "utils.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            table: dict[Any, str] = ast.literal_eval(node.value)
            return table
    return {}


def _package() -> Path:
    spec = find_spec("mlx_lm")  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("mlx-lm is not installed")
    return Path(spec.submodule_search_locations[0])
