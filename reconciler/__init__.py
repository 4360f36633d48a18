"""Keeps language models loaded on a Mac as declared, with MLX."""

from importlib.metadata import version

__version__ = version("mlx-reconciler")
