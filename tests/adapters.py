"""Makes adapters with mlx_lm.lora's own layers and random weights from a seed."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

PARAMETERS = {"rank": 4, "scale": 20.0, "dropout": 0.1}


def make(base: Path, directory: Path, *, seed: int, kind: str = "lora", layers: int = -1) -> Path:
    """Write an adapter of the checkpoint `base` into `directory`; -1 layers means all."""
    model, _ = load_model(base)
    model.freeze()
    layers = len(model.layers) if layers < 0 else layers
    if kind == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
    else:
        linear_to_lora_layers(model, layers, PARAMETERS, use_dora=kind == "dora")
    key = mx.random.key(seed)
    weights: list[tuple[str, Any]] = []
    for name, array in tree_flatten(model.trainable_parameters()):
        key, now = mx.random.split(key)
        noise = 0.1 * mx.random.normal(array.shape, key=now)
        # Change a magnitude (DoRA) or a whole weight only a little.
        weights.append((name, noise if ".lora_" in name else array + noise))
    model.update(tree_unflatten(weights))
    directory.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(directory / "adapters.safetensors"), dict(weights))
    config = {
        "fine_tune_type": kind,
        "model": str(base),
        "num_layers": layers,
        "lora_parameters": PARAMETERS,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return directory
