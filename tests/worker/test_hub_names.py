"""Test that transformers and mlx_lm import huggingface_hub's client only when needed."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from reconciler.worker import hub_names

LOAD = """
import sys
from reconciler.worker import quick_imports

quick_imports.install()
import huggingface_hub
from mlx_lm.utils import load

model, tokenizer = load(sys.argv[1])
assert tokenizer.encode("a")
client = {"huggingface_hub." + name for name in ("hf_api", "repocard", "_snapshot_download")}
assert client.isdisjoint(sys.modules), client & set(sys.modules)

from transformers.utils.hub import HfApi, ModelCard, hf_api
assert not isinstance(1, ModelCard)
api = hf_api()
assert type(api).__module__ == "huggingface_hub.hf_api"
assert isinstance(api, HfApi)
assert ModelCard.from_template.__self__.__module__ == "huggingface_hub.repocard"
assert "HfApi | None" in str(sys.modules["transformers.utils.hub"].__annotations__)
try:
    huggingface_hub.snapshot_download("a/b", local_files_only=True, cache_dir=sys.argv[2])
except huggingface_hub.errors.LocalEntryNotFoundError:
    print("no snapshot")
"""


def test_a_checkpoint_is_loaded_without_the_client_and_the_client_is_found(
    models: Path, tmp_path: Path
) -> None:
    words = [str(models / "tiny/llama"), str(tmp_path)]
    command = [sys.executable, "-W", "ignore", "-c", LOAD, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no snapshot\n"), done.stderr


def test_a_module_with_another_lookup_or_other_names_is_left_unpatched() -> None:
    for package in (
        SimpleNamespace(__all__=["HfApi"], HfApi=int),
        SimpleNamespace(__all__=["HfApi"], HfApi=int, __getattr__=len),
        SimpleNamespace(__all__=["Other"], __getattr__=len),
    ):
        before = dict(vars(package))
        hub_names.patch(package)
        assert vars(package) == before
