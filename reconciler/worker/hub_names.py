"""Import placeholders instead of huggingface_hub's client, which workers do not use.

transformers and mlx_lm import five names of huggingface_hub for downloads and uploads. The modules
that define these take a tenth of a worker's import time, and a worker neither downloads nor
uploads. huggingface_hub imports its names lazily. This module sets a placeholder for each name,
which imports the real object when it is called, when its attributes are read, or for `isinstance`.

Versions of huggingface_hub without lazy imports, or without these names, are not patched.
"""

from typing import Any

PACKAGE = "huggingface_hub"

NAMES = ("CommitOperationAdd", "HfApi", "ModelCard", "ModelCardData", "snapshot_download")
"""Four classes and a function that transformers/utils/hub.py and mlx_lm/utils.py import."""


class Placeholder(type):
    """Placeholder for a class or function of a package. It is a class, as annotations need one."""

    _package: Any

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """Call the real object."""
        return cls._real()(*values, **named)

    def __getattr__(cls, name: str) -> Any:
        """Attribute of the real object, except names that Python probes, such as `__wrapped__`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        """True for instances of the real class."""
        return isinstance(instance, cls._real())

    def _real(cls) -> Any:
        return cls._package.__getattr__(cls.__name__)


def patch(package: Any) -> None:
    """Set a placeholder for each of `NAMES` that `package` imports lazily."""
    if not hasattr(package, "__getattr__"):
        return
    for name in NAMES:
        if name in getattr(package, "__all__", ()) and name not in vars(package):
            setattr(package, name, Placeholder(name, (), {"_package": package}))
