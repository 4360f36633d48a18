"""The vocabulary of a tokenizer is fetched once while it is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import tokenizer_utils
from transformers import tokenization_utils_tokenizers

from reconciler.worker import tokenizers
from reconciler.worker.output import of_tokenizer
from reconciler.worker.preprocessing.pool import Preprocessor
from reconciler.worker.vocabulary import vocabulary_kept


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tokenizers whose vocabulary was fetched, one entry for each time."""
    calls: list[Any] = []
    kind = tokenization_utils_tokenizers.TokenizersBackend
    get_vocab = kind.get_vocab

    def noted(self: Any) -> dict[str, int]:
        calls.append(self)
        vocabulary: dict[str, int] = get_vocab(self)
        return vocabulary

    monkeypatch.setattr(kind, "get_vocab", noted)
    return calls


def load(path: Path) -> Any:
    preprocessor = Preprocessor(apart=False)
    tokenizer = tokenizers.load(path, preprocessor)
    of_tokenizer(tokenizer, preprocessor.renderer)
    return tokenizer


def test_a_load_fetches_the_vocabulary_once(models: Path, fetched: list[Any]) -> None:
    path = models / "tiny/llama"
    stock = load(path)
    assert len(fetched) > 1
    fetched.clear()
    with vocabulary_kept():
        tokenizer = load(path)
    assert len(fetched) == 1
    assert tokenizer.get_vocab() == stock.get_vocab()
    assert tokenizer.eos_token_ids == stock.eos_token_ids


def test_a_loaded_tokenizer_follows_later_changes(models: Path) -> None:
    with vocabulary_kept():
        tokenizer = load(models / "tiny/llama")
    tokenizer._tokenizer.add_tokens(["<added>"])
    assert "<added>" in tokenizer.get_vocab()


def test_a_failed_load_leaves_mlx_lm_unchanged(tmp_path: Path) -> None:
    auto = tokenizer_utils.AutoTokenizer
    with pytest.raises(Exception), vocabulary_kept():  # noqa: B017, PT011  of several libraries
        load(tmp_path)
    assert tokenizer_utils.AutoTokenizer is auto


@pytest.mark.parametrize("added", [False, True], ids=["vocabulary", "added token"])
def test_a_huge_id_is_an_error(models: Path, tmp_path: Path, *, added: bool) -> None:
    """Lists of all ids would take minutes and gigabytes."""
    path = tmp_path / "huge"
    shutil.copytree(models / "tiny/llama", path)
    file = path / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    if added:
        content["added_tokens"].append(content["added_tokens"][0] | {"id": 10**9, "content": "<z>"})
    content["model"]["vocab"]["<z>"] = 10**9
    file.write_text(json.dumps(content), "utf-8")
    with vocabulary_kept(), pytest.raises(ValueError, match="a token has the id 1000000000; the"):
        load(path)
