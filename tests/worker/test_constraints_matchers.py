"""Test which compiled grammars stay in memory."""

import time
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_tokenizer

from reconciler.worker.constraints import matchers
from reconciler.worker.constraints.compiling import lark_grammar, whole
from reconciler.worker.constraints.matchers import Matchers


def grammar(text: str) -> str:
    return whole([lark_grammar("answer", f'%llguidance {{"no_forcing": true}}\nstart: "{text}"')])


def made(models: Path) -> Matchers:
    return Matchers(load_tokenizer(models / "tiny/llama"), [0], 320)


def kept(of: Matchers) -> set[str]:
    return set(of._kept)


def test_grammars_that_took_long_to_compile_push_out_others(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: dict[str, float] = {}
    clock = 0.0

    def compiled(_tokens: Any, text: str) -> Any:
        nonlocal clock
        clock += seconds.get(text, 0.0)
        return made_by(_tokens, text)

    made_by = matchers._compiled
    monkeypatch.setattr(matchers, "_compiled", compiled)
    monkeypatch.setattr(time, "thread_time", lambda: clock)
    one = made(models)
    names = [grammar(text) for text in "abcd"]
    seconds[names[2]] = 1.5
    for name in names[:3]:
        one.matcher(name)
    assert kept(one) == set(names[:3])
    seconds[names[3]] = 1.0
    one.matcher(names[3])
    assert kept(one) == {names[3]}
    seconds[names[0]] = 5.0
    one.matcher(names[0])
    assert kept(one) == {names[0]}
