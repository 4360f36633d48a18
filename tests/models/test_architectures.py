"""Supported architectures, found without importing mlx-lm and checked against mlx-lm itself."""

import ast
import contextlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from reconciler.models import architectures
from reconciler.models.architectures import loadable

JUDGE = """
import json, sys
from mlx_lm.utils import _get_classes
def ok(config):
    try:
        _get_classes(config)
    except (ValueError, AttributeError):
        return False
    except SystemExit:  # it has the module, but not a package that the module needs
        return True
    return True

print(json.dumps([ok(config) for config in json.load(sys.stdin)]))
"""


def test_it_agrees_with_mlx_lm_on_every_module_and_name() -> None:
    spec = find_spec("mlx_lm")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    names = [file.stem for file in sorted((package / "models").glob("*.py"))]
    names += ["mistral", "kimi_k2", "phi-msft", "no_such_model", "gpt2.x"]
    configs = [{"model_type": name, "architectures": []} for name in names]
    configs.append({"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]})
    judged = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(configs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr
    ours = [loadable(str(c["model_type"]), tuple(c["architectures"])) for c in configs]
    assert dict(zip(names, ours, strict=False)) == dict(
        zip(names, json.loads(judged.stdout.splitlines()[-1]), strict=False)
    )
    assert sum(ours) > 50


@pytest.mark.parametrize("name", ["base", "cache", "../utils", "", "llama.py"])
def test_modules_that_are_not_models_are_not_loadable(name: str) -> None:
    assert loadable(name, ()) is False


def test_only_one_thread_parses_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, both = ast.parse, threading.Barrier(2)

    def watched(source: str) -> ast.Module:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.2)
        return parse(source)

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as threads:
        patched.setattr(ast, "parse", watched)
        assert all(threads.map(architectures._parsed, ["llama", "qwen3"]))
    assert both.broken, "two were in it at once"
