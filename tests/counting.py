"""A real checkpoint whose words are known: after each of the tokens 0 to 62 it says the next."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

WIDTH = 64
"""Of the tiny llama's hidden state: so many tokens can be told apart."""


def make(llama: Path, target: Path) -> Path:
    """Write it to `target`, from the tiny llama in `llama`: attention and MLP add nothing."""
    shutil.copytree(llama, target)
    arrays = weights(target)
    for name, value in arrays.items():
        if name.endswith("norm.weight"):
            arrays[name] = mx.ones_like(value)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            arrays[name] = mx.zeros_like(value)
    one_hot = mx.eye(arrays["lm_head.weight"].shape[0], WIDTH)
    arrays["model.embed_tokens.weight"] = one_hot
    arrays["lm_head.weight"] = mx.concatenate([mx.zeros((1, WIDTH)), one_hot[:-1]])
    mx.save_safetensors(str(target / "model.safetensors"), arrays, {"format": "mlx"})
    configure(target, eos_token_id=None)
    return target


def weights(path: Path) -> dict[str, Any]:
    """The arrays of a checkpoint in one file."""
    loaded: Any = mx.load(str(path / "model.safetensors"))
    return dict(loaded)


def configure(path: Path, file: str = "config.json", /, **values: object) -> None:
    """Set keys of a checkpoint's JSON file, which need not be there; None removes one."""
    old = json.loads((path / file).read_bytes()) if (path / file).exists() else {}
    new = {key: value for key, value in (old | values).items() if value is not None}
    (path / file).write_text(json.dumps(new), "utf-8")
