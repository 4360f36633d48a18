"""The table of a request's keys."""

import re
from collections import Counter
from pathlib import Path

import openai.types.chat.completion_create_params as chats
import openai.types.completion_create_params as texts
import pytest
from mlx_lm import server

from reconciler.core.request_keys import ACTS, BY_NAME, KEYS, Kind, resembles


def test_names_of_keys_are_unique() -> None:
    names = Counter(name for key in KEYS for name in (key.name, *key.aliases))
    assert [name for name, number in names.items() if number > 1] == []
    assert [key.name for key in ACTS if not key.meaning] == []


@pytest.mark.parametrize("module", [chats, texts])
def test_every_key_of_openais_client_is_known(module: object) -> None:
    (base,) = (getattr(module, n) for n in ("CompletionCreateParamsBase",))
    streams = module.CompletionCreateParamsStreaming  # type: ignore[attr-defined]
    keys = {*base.__annotations__, *streams.__annotations__}
    assert len(keys) > 15
    assert keys - set(BY_NAME) == set()


def test_every_key_of_mlx_lm_server_is_known() -> None:
    source = Path(server.__file__).read_text("utf-8")
    keys = set(re.findall(r'self\.body\.get\(\s*"(\w+)"', source))
    assert len(keys) > 20
    assert keys - set(BY_NAME) == set()


def test_a_refused_key_is_accepted_with_a_value_without_effect() -> None:
    for key in KEYS:
        if key.kind is Kind.REFUSED:
            assert key.is_neutral(None)
            assert not key.is_neutral({"a": 1})
    assert BY_NAME["skip_special_tokens"].is_neutral(True)
    assert not BY_NAME["skip_special_tokens"].is_neutral(False)


def test_a_misspelt_key_resembles_the_intended_one() -> None:
    assert resembles("temprature") == "temperature"
    assert resembles("maxTokens") == "max_tokens"
    assert resembles("max-tokens") == "max_tokens"
    assert resembles("repetition_penality") == "repetition_penalty"
    assert resembles("flavour") is None
