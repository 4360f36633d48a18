"""Make `import transformers` read its own sources once, not twice, and only where names are listed.

At its import transformers opens each of its 1,600 model files to learn which names they export.
It splits every file into lines for that, and remembers 128 of its 550 folders, so that importing
`AutoTokenizer` after it reads them all again. That is half of what a worker's imports cost.

The module with these functions is patched right after it ran, before it is used. The result is the
same; a version of transformers without these functions is left alone.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SCANNER = "transformers.utils.import_utils"

_NAMES = "\n__all__"


def install() -> None:
    """Patch the scanner when it is imported. Call it before anything imports transformers."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the scanner alone, as it would be found anyway."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, whose loader patches what it loaded."""
        if fullname != SCANNER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                patch(module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def patch(module: Any) -> None:
    """Have the scanner remember all folders, and split no lines before the exported names."""
    names = getattr(module, "fetch__all__", None)
    scan: Any = getattr(module, "create_import_structure_from_path", None)
    if names is None or not hasattr(scan, "__wrapped__"):
        return
    module.fetch__all__ = lambda source: names(source[source.rfind(_NAMES) + 1 :])
    module.create_import_structure_from_path = lru_cache(maxsize=None)(scan.__wrapped__)
