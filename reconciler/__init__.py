"""Keeps language models loaded on a Mac as declared, with MLX."""

import os
import sys

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
"""Not by pathlib, whose imports the working directory could shadow."""

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[:1] == [os.getcwd()] != [_HERE]:  # noqa: PTH109
    # `python -m reconciler` without -P: nothing else is imported from the working directory.
    del sys.path[0]

from importlib.metadata import version  # noqa: E402

__version__ = version("mlx-reconciler")
