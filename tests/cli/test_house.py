"""Options that `serve` rejects before it starts."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import click
import pytest

from reconciler.cli.bootstrap import Options, _check_names

OPTIONS = Options(
    manifests=Path("manifests"),
    models=(Path("models"),),
    hub_cache=Path("hub"),
    lm_studio=Path("lmstudio"),
    state=Path("state"),
    host="127.0.0.1",
    port=0,
    token_file=None,
    jit=False,
    log_level="error",
)


@pytest.mark.parametrize("key", ["manifests", "models", "hub_cache", "lm_studio", "state"])
def test_a_directory_whose_name_is_not_utf8_is_rejected_in_one_line(key: str) -> None:
    place = Path(os.fsdecode(b"/caf\xe9"))
    value: Any = (place,) if key == "models" else place
    with pytest.raises(click.ClickException) as raised:
        _check_names(dataclasses.replace(OPTIONS, **{key: value}))
    assert raised.value.message == (
        "the name of /caf\ufffd is not UTF-8; rename it, or use another directory"
    )
