"""Imports of `serve`."""

import json
import sys
from importlib import import_module

import pytest

from reconciler.cli import serve


def test_a_package_is_hidden_from_imports_and_restored() -> None:
    with serve._without("json"), pytest.raises(ImportError):
        import_module("json")
    assert import_module("json") is json
    with serve._without("nothing.such"):
        pass
    assert "nothing.such" not in sys.modules
