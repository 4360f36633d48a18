"""transformers exports the same names however quickly they are found."""

import subprocess
import sys
from types import SimpleNamespace

import transformers.models
from transformers.utils import import_utils

from reconciler.worker import quick_imports

QUICKLY = """
import sys

read = []

def note(event, details):
    if event == "open" and "/transformers/models/" in str(details[0]) and details[1] == "r":
        read.append(details[0])

sys.addaudithook(note)
from reconciler.worker import quick_imports

quick_imports.install()
from transformers import AutoTokenizer
print(len(read), len(set(read)))

from transformers.utils import import_utils
models = import_utils.define_import_structure(sys.modules["transformers.models"].__file__)
print(sorted((sorted(k), sorted((m, sorted(n)) for m, n in v.items())) for k, v in models.items()))
"""


def test_the_same_names_are_found_and_no_folder_is_read_twice() -> None:
    command = [sys.executable, "-W", "ignore", "-c", QUICKLY]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    counts, quick = run.stdout.splitlines()
    models = import_utils.define_import_structure(transformers.models.__file__)
    slow = sorted(
        (sorted(k), sorted((m, sorted(n)) for m, n in v.items())) for k, v in models.items()
    )
    assert quick == str(slow)
    assert len(slow) > 5
    reads, files = map(int, counts.split())
    assert files > 1000
    assert reads < 1.05 * files


def test_a_scanner_without_these_functions_is_left_alone() -> None:
    module = SimpleNamespace(fetch__all__=len, create_import_structure_from_path=len)
    quick_imports.patch(module)
    assert module == SimpleNamespace(fetch__all__=len, create_import_structure_from_path=len)
