"""Have transformers and mlx_lm import names of huggingface_hub's client, and not the client.

At their import they import five of its names for downloads and uploads. The modules that define
these take a tenth of what a worker's imports cost, and a worker neither downloads nor uploads.
huggingface_hub finds a name when it is asked for; here a placeholder is found instead, which turns
to the real one when it is called, when an attribute of it is read, or for `isinstance`.

A version of huggingface_hub that finds names in another way, or has other names, is left alone.
"""

from typing import Any

PACKAGE = "huggingface_hub"

NAMES = ("CommitOperationAdd", "HfApi", "ModelCard", "ModelCardData", "snapshot_download")
"""Four classes and a function: what transformers/utils/hub.py and mlx_lm/utils.py import."""


class Placeholder(type):
    """Stands for a class or function of a package; a class itself, as annotations need one."""

    _package: Any

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """What the real one returns."""
        return cls._real()(*values, **named)

    def __getattr__(cls, name: str) -> Any:
        """The real one's attribute; none that Python itself looks for, such as `__wrapped__`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        """True for instances of the real one."""
        return isinstance(instance, cls._real())

    def _real(cls) -> Any:
        return cls._package.__getattr__(cls.__name__)


def patch(package: Any) -> None:
    """Put a placeholder for each of the names that `package` finds when it is asked for."""
    if not hasattr(package, "__getattr__"):
        return
    for name in NAMES:
        if name in getattr(package, "__all__", ()) and name not in vars(package):
            setattr(package, name, Placeholder(name, (), {"_package": package}))
