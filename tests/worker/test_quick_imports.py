"""Test that transformers exports the same names with the faster scanner."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers.models

from reconciler.worker import quick_imports

QUICKLY = """
import sys

read = []

def note(event, details):
    if event == "open" and "/transformers/models/" in str(details[0]) and details[1] == "r":
        read.append(details[0])

sys.addaudithook(note)
from pathlib import Path
from reconciler.worker import import_cache, quick_imports

import_cache.location = lambda models: Path(sys.argv[1])
quick_imports.install()
from transformers import AutoTokenizer
print(len(read), len(set(read)))

from transformers.utils import import_utils
models = import_utils.define_import_structure(sys.modules["transformers.models"].__file__)
print(sorted((sorted(k), sorted((m, sorted(n)) for m, n in v.items())) for k, v in models.items()))
"""


def unpatched() -> Any:
    """transformers' own scanner, loaded again by a loader that patches nothing."""
    path = Path(transformers.models.__file__).parents[1] / "utils" / "import_utils.py"
    spec = spec_from_file_location("transformers.utils.plain_import_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_names_are_found_reading_each_folder_once_and_then_none(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", QUICKLY, str(tmp_path / "names")]
    models = unpatched().define_import_structure(transformers.models.__file__)
    slow = sorted(
        (sorted(k), sorted((m, sorted(n)) for m, n in v.items())) for k, v in models.items()
    )
    assert len(slow) > 5
    read = []
    for _ in range(2):
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        counts, quick = run.stdout.splitlines()
        assert quick == str(slow)
        read.append([int(number) for number in counts.split()])
    (reads, files), (reads_again, _) = read
    assert files > 1000
    assert reads < 1.05 * files
    assert reads_again < 20  # modules that it imports


def test_a_scanner_without_these_functions_is_left_unpatched() -> None:
    module = SimpleNamespace(fetch__all__=len, create_import_structure_from_path=len)
    quick_imports.patch(module)
    assert module == SimpleNamespace(fetch__all__=len, create_import_structure_from_path=len)
