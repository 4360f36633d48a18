"""Parameters and system prompts of Ollama's models.

`manifests/REGISTRY/NAMESPACE/NAME/TAG` lists layers by media type and digest; a layer's content is
`blobs/sha256-DIGEST`. Parameters are a JSON object; a system prompt is text. The source of this
format is Ollama's code.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reconciler.cli.importing.found import Found, read_json, read_text

PARAMETERS = "application/vnd.ollama.image.params"
SYSTEM = "application/vnd.ollama.image.system"

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

USUAL = ("registry.ollama.ai/library/", "registry.ollama.ai/")
"""Prefixes removed from names, as in `ollama list`."""

DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "num_predict": "max_tokens",
    "seed": "seed",
}


def found(root: Path) -> Iterator[Found]:
    """Read all models that have parameters or a system prompt, in the order of their names."""
    manifests = root / "manifests"
    for path in sorted(manifests.rglob("*")):
        parts = path.relative_to(manifests).parts
        if len(parts) == 4 and path.is_file() and not path.name.startswith("."):
            name = "/".join(parts[:-1])
            for prefix in USUAL:
                name = name.removeprefix(prefix)
            yield _read(root, path, name, parts[-1])


def _read(root: Path, path: Path, name: str, tag: str) -> Found:
    names = (name, f"{name}:latest") if tag == "latest" else (f"{name}:{tag}",)
    try:
        layers = dict(_layers(read_json(path)))
        parameters = read_json(_blob(root, layers[PARAMETERS])) if PARAMETERS in layers else {}
        system = read_text(_blob(root, layers[SYSTEM])) if SYSTEM in layers else ""
    except (OSError, ValueError, RecursionError) as error:
        return Found(names[0], names, problem=str(error))
    defaults = {DEFAULTS[key]: value for key, value in parameters.items() if key in DEFAULTS}
    if system.strip():
        defaults["system_prompt"] = system
    config = {"context_length": parameters["num_ctx"]} if "num_ctx" in parameters else {}
    left_out = tuple(key for key in parameters if key not in DEFAULTS and key != "num_ctx")
    if not (defaults or config or left_out):
        return Found(names[0], names, problem="it has no parameters and no system prompt")
    return Found(names[0], names, None, config, defaults, left_out)


def _layers(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict):
            kind, digest = layer.get("mediaType"), layer.get("digest")
            if isinstance(kind, str) and isinstance(digest, str):
                yield kind, digest


def _blob(root: Path, digest: str) -> Path:
    """Path of a blob. Raises ValueError if the digest is invalid."""
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError(f"'{digest[:80]}' is not a digest")
    return root / "blobs" / f"sha256-{match[1]}"
