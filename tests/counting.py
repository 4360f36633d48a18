"""Makes a real checkpoint with predictable output: tokens 0 to 62 are each followed by the next."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

WIDTH = 64
"""Width of the tiny llama's hidden state: the number of distinguishable tokens."""


def make(llama: Path, target: Path) -> Path:
    """Write it to `target`, from the tiny llama in `llama`; attention and MLP output zero."""
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
    """Arrays of a single-file checkpoint."""
    loaded: Any = mx.load(str(path / "model.safetensors"))
    return dict(loaded)


def configure(path: Path, file: str = "config.json", /, **values: object) -> None:
    """Set keys of a checkpoint's JSON file, which may be missing; None removes a key."""
    old = json.loads((path / file).read_bytes()) if (path / file).exists() else {}
    new = {key: value for key, value in (old | values).items() if value is not None}
    (path / file).write_text(json.dumps(new), "utf-8")
