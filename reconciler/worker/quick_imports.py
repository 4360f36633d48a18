"""Speed up `import transformers`: it scans its own sources once or not at all, instead of twice.

When it is imported, transformers opens each of its 1,600 model files to determine which names they
export. It splits every file into lines, and caches only 128 of its 550 folders, so that importing
`AutoTokenizer` afterwards reads them all again. That takes half of a worker's import time.

The module with these functions is patched right after it was executed, before it is used. The names
are read from an earlier worker's cache file (`import_cache`), or scanned once and cached. The
result is the same. Versions of transformers without these functions are not patched.
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from reconciler.worker import hub_names, import_cache
from reconciler.worker.import_cache import Structure

SCANNER = "transformers.utils.import_utils"

_NAMES = "\n__all__"

_SPREAD = "spread_import_structure"

Scan = Callable[[Any], Structure]
"""Path of a folder, or of a file in it -> names that the folder exports."""


def install() -> None:
    """Patch modules when they are imported. Call it before anything imports transformers."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules to patch, in the same way as `PathFinder`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's own spec, with a loader that patches the module after loading it."""
        patched = _PATCHES.get(fullname)
        if patched is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                patched(module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def patch(module: Any) -> None:
    """Make the scanner use cached names, cache all folders, and split only the needed lines."""
    names = getattr(module, "fetch__all__", None)
    scan: Any = getattr(module, "create_import_structure_from_path", None)
    if names is None or not hasattr(scan, "__wrapped__") or not hasattr(module, _SPREAD):
        return
    module.fetch__all__ = lambda source: names(source[source.rfind(_NAMES) + 1 :])
    once = lru_cache(maxsize=None)(scan.__wrapped__)
    module.create_import_structure_from_path = once
    models = Path(module.__file__).parents[1] / "models"
    kept = import_cache.location(models)
    if kept is not None and models.is_dir():
        version = getattr(sys.modules.get("transformers"), "__version__", "")
        structure = _kept_or_found(kept, models, version, once)
        module.create_import_structure_from_path = _within(models, structure, once)
        setattr(module, _SPREAD, _spread_once(structure, getattr(module, _SPREAD)))


_PATCHES: dict[str, Callable[[Any], None]] = {SCANNER: patch, hub_names.PACKAGE: hub_names.patch}


def _kept_or_found(file: Path, models: Path, version: str, scan: Scan) -> Structure:
    structure = import_cache.read(file, models, version)
    if structure is None:
        folders = import_cache.folders_of(models)  # first, to detect changes during the scan
        structure = scan(str(models))
        import_cache.write(file, folders, version, structure)
    return structure


def _spread_once(
    structure: Structure, spread: Callable[[Structure], Structure]
) -> Callable[[Structure], Structure]:
    """Cache `spread`, which transformers calls twice with all exports of its models."""
    kept = spread(structure)

    def find(nested: Structure) -> Structure:
        if nested is not structure:
            return spread(nested)
        return {backends: dict(modules) for backends, modules in kept.items()}

    return find


def _within(models: Path, structure: Structure, scan: Scan) -> Scan:
    """Make a scan function that looks up the folders in `models`, and scans all others."""

    def find(path: Any) -> Structure:
        folder = Path(path)
        if folder.suffix == ".py":
            folder = folder.parent
        found = structure
        try:
            for name in folder.relative_to(models).parts:
                found = found[name]
        except (ValueError, KeyError):
            return scan(path)
        return found

    return find
