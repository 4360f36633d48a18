"""Keeps language models loaded on a Mac as declared, with MLX."""

import os
import sys

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
"""Not by pathlib, whose imports the working directory could shadow."""

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[:1] == [os.getcwd()] != [_HERE]:  # noqa: PTH109
    # `python -m reconciler` without -P: nothing else is imported from the working directory.
    del sys.path[0]


def __getattr__(name: str) -> str:
    """`__version__`, which takes 40 ms to look up: most processes have no use for it."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version

    return version("mlx-reconciler")
