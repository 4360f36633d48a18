"""Detect embedding models and rerankers, and read how they compute a vector of a text.

sentence-transformers saves this information beside the weights:

    modules.json                       the modules in order, each with its directory
    1_Pooling/config.json              how token vectors are pooled into one vector
    2_Dense/{config.json,model.safetensors}
    2_Normalize/                       only its presence matters
    config_sentence_transformers.json  prompts, and the name of the default one
    sentence_bert_config.json          maximum length of a text

Conversions to MLX often omit these files. For the few families that are often converted this way,
the name of the directory implies the settings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from reconciler.core.embedder import ACTIVATIONS, POOLINGS, Dense, Embedder
from reconciler.core.reranker import QWEN3, Reranker
from reconciler.models.files import FaultyFileError, exists, faulty, read_bytes
from reconciler.models.jsonfile import MAX_BYTES, optional_object
from reconciler.models.weights import read_tensors

MODULES = "modules.json"

SETTINGS = "config_sentence_transformers.json"

DIRECTORY = re.compile(r"\d{1,2}_[A-Za-z]{1,40}", re.ASCII)
"""Directory name of a module, as sentence-transformers chooses it."""

MAX_MODULES = 16

MAX_DIMENSIONS = 1_000_000

MAX_PROMPTS = 200

MAX_PROMPT = 10_000
"""Characters per prompt."""

_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Keys of a Pooling module's config.json in releases before 5.4, by pooling mode."""


@dataclass(frozen=True)
class _Family:
    """Settings of a published family, for conversions that lack the files."""

    name: re.Pattern[str]
    model_type: str
    embedder: Embedder


_INSTRUCTED = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)

_FAMILIES = (
    _Family(
        re.compile(r"qwen3[-_.]embedding", re.IGNORECASE),
        "qwen3",
        Embedder(("lasttoken",), 0, prompts={"query": _INSTRUCTED, "document": ""}),
    ),
    _Family(
        re.compile(r"(e5-mistral|sfr-embedding|linq-embed-mistral)", re.IGNORECASE),
        "mistral",
        Embedder(("lasttoken",), 0),
    ),
)
"""Sources: the files of Qwen/Qwen3-Embedding-0.6B, -4B and -8B, intfloat/e5-mistral-7b-instruct,
Salesforce/SFR-Embedding-Mistral and Linq-AI-Research/Linq-Embed-Mistral."""

_QWEN3_RERANKER = re.compile(r"qwen3[-_.]reranker", re.IGNORECASE)

_ENCODER = re.compile(r"bert|mpnet|^t5|xlm|new$", re.IGNORECASE)
"""Model types of encoders: bert, roberta, xlm-roberta, modernbert, nomic_bert, distilbert, deberta,
camembert, ...; `new` is Alibaba's GTE."""


def read(path: Path, config: Mapping[str, Any]) -> Embedder | None:
    """Read how the checkpoint in directory `path` embeds texts; None if it is no embedding model.

    Raises `FaultyFileError` with the file and the unsupported setting, or OSError.
    """
    listed = exists(path / MODULES) and unreadable(path) is None
    found = _of_modules(path, config) if listed else _of_name(path, config)
    if found is None:
        if _is_bidirectional(config):
            words = "its tokens attend in both directions, as in embedding models; modules.json "
            raise FaultyFileError(path, f"{words}and the directories that it names are missing")
        return None
    found = replace(found, causal=_is_causal(config))
    return _with_settings(path, found)


def unreadable(path: Path) -> str | None:
    """The error of an invalid modules.json; None if it is valid or absent.

    mlx_lm does not read this file, so a generating checkpoint loads whatever it contains.
    """
    if not exists(path / MODULES):
        return None
    try:
        _json_list(path / MODULES)
    except FaultyFileError as error:
        return str(error)
    return None


def reranker(path: Path, config: Mapping[str, Any]) -> Reranker | None:
    """Read how the checkpoint in directory `path` ranks documents; None if it is no known reranker.

    Qwen3-Reranker is detected by its name: its files do not differ from those of a chat model.
    """
    if config.get("model_type") == "qwen3" and _QWEN3_RERANKER.search(_name(path)):
        return QWEN3
    return None


def is_encoder(model_type: str) -> bool:
    """True if the architecture is an encoder, the usual base of embedding models."""
    return _ENCODER.search(model_type) is not None


def module_directories(names: Sequence[str]) -> list[str]:
    """Names in a checkpoint's directory that may be module directories."""
    return [name for name in names if DIRECTORY.fullmatch(name)] if MODULES in names else []


def _of_modules(path: Path, config: Mapping[str, Any]) -> Embedder | None:
    settings = optional_object(path / SETTINGS)
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        return None  # a cross-encoder, or sparse vectors over the vocabulary
    modules = _modules(path / MODULES)
    kinds = [kind for kind, _ in modules]
    if kinds[:1] != ["Transformer"] or "Pooling" not in kinds:
        words = f"its modules {', '.join(kinds) or '(none)'} do not begin with Transformer, Pooling"
        raise FaultyFileError(path / MODULES, words)
    pooling, normalized, dense = _pooling(path / modules[1][1] / "config.json", config), False, []
    for kind, directory in modules[2:]:
        if kind == "Normalize":
            normalized = True
        elif kind == "Dense" and not normalized:
            dense.append(_dense(path / directory))
        elif kind != "Dropout":
            words = f"its module {kind} after {kinds[1]} is not supported"
            raise FaultyFileError(path / MODULES, words)
    width = pooling.dimensions
    for layer in dense:
        if layer.inputs != width:
            words = f"in_features {layer.inputs}, after a module with {width} dimensions"
            raise FaultyFileError(Path(layer.file).parent / "config.json", words)
        width = layer.outputs
    return replace(pooling, normalized=normalized, dense=tuple(dense), dimensions=width)


def _modules(file: Path) -> list[tuple[str, str]]:
    """Type and directory of each module, in order."""
    listed = _json_list(file)
    found = []
    for entry in listed[:MAX_MODULES]:
        kind, directory = entry.get("type"), entry.get("path", "")
        if not isinstance(kind, str) or not isinstance(directory, str):
            raise FaultyFileError(file, "a module has no type or path")
        name = kind.rpartition(".")[2][:80]
        if directory and not DIRECTORY.fullmatch(directory):
            words = f"the path {directory[:80]} of its module {name} is not N_NAME"
            raise FaultyFileError(file, words)
        found.append((name, directory))
    if len(found) > 1 and found[1][0] != "Pooling":
        raise FaultyFileError(file, f"its module {found[1][0]} before Pooling is not supported")
    return found


def _json_list(file: Path) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(read_bytes(file, MAX_BYTES), type=list[dict[str, Any]])
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(file, error) from None


def _pooling(file: Path, config: Mapping[str, Any]) -> Embedder:
    if not exists(file):
        raise FaultyFileError(file, "it is missing; download the model again")
    found = optional_object(file)
    named = found.get("pooling_mode")
    if named is None:
        modes = [mode for mode in POOLINGS if found.get(_FLAGS[mode]) is True]
    else:
        listed = named if isinstance(named, list) else [named]
        modes = [mode for mode in POOLINGS if mode in listed]
        if len(modes) < len(listed):
            raise FaultyFileError(file, f"pooling_mode {str(named)[:80]} is not supported")
    if not modes:
        raise FaultyFileError(file, "it has no supported pooling mode")
    width = _number(found.get("word_embedding_dimension", found.get("embedding_dimension")))
    hidden = _width(config)
    if width and hidden and width != hidden:
        words = f"it pools vectors of {width}, but config.json has hidden_size {hidden}"
        raise FaultyFileError(file, words)
    width = width or hidden
    return Embedder(
        tuple(modes), width * len(modes), pools_prompt=found.get("include_prompt") is not False
    )


def _dense(directory: Path) -> Dense:
    file = directory / "config.json"
    found = optional_object(file)
    inputs, outputs = _number(found.get("in_features")), _number(found.get("out_features"))
    if not inputs or not outputs:
        raise FaultyFileError(file, "in_features or out_features is missing or invalid")
    activation = str(found.get("activation_function", "Tanh")).rpartition(".")[2][:80]
    if activation not in ACTIVATIONS:
        raise FaultyFileError(file, f"the activation function {activation} is not supported")
    bias = found.get("bias") is not False
    tensors = read_tensors(directory)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    expected = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if bias else {})
    if shapes != expected:
        words = f"its tensors are not the {inputs} x {outputs} layer of its config.json"
        raise FaultyFileError(directory / "model.safetensors", words)
    size = sum(tensor.size for tensor in tensors.values())
    return Dense(str(directory / "model.safetensors"), inputs, outputs, bias, activation, size)


def _of_name(path: Path, config: Mapping[str, Any]) -> Embedder | None:
    named = _name(path)
    for family in _FAMILIES:
        if config.get("model_type") == family.model_type and family.name.search(named):
            return replace(family.embedder, dimensions=_width(config))
    return None


def _name(path: Path) -> str:
    """Name of the checkpoint's directory, or of the repository of a cached snapshot."""
    return path.parents[1].name if path.parent.name == "snapshots" else path.name


def _is_causal(config: Mapping[str, Any]) -> bool:
    return not _is_bidirectional(config) and config.get("is_causal") is not False


def _is_bidirectional(config: Mapping[str, Any]) -> bool:
    return config.get("use_bidirectional_attention") is True  # `vision`: only image tokens


def _with_settings(path: Path, found: Embedder) -> Embedder:
    """Add the prompts, the maximum length and the case setting from the files."""
    file = path / SETTINGS
    settings = optional_object(file)
    prompts = settings.get("prompts")
    if isinstance(prompts, dict) and prompts:
        kept = {k: v for k, v in prompts.items() if isinstance(v, str) and len(v) <= MAX_PROMPT}
        if len(kept) < len(prompts) or len(kept) > MAX_PROMPTS:
            raise FaultyFileError(file, "its prompts are too many, too long or not strings")
        found = replace(found, prompts=kept)
    default = settings.get("default_prompt_name")
    if default is not None and default not in found.prompts:
        words = f"default_prompt_name {str(default)[:80]} is not one of its prompts"
        raise FaultyFileError(file, words)
    texts = optional_object(path / "sentence_bert_config.json")
    return replace(
        found,
        default_prompt=default,
        max_tokens=_number(texts.get("max_seq_length")) or None,
        lowercase=texts.get("do_lower_case") is True,
    )


def _width(config: Mapping[str, Any]) -> int:
    return _number(config.get("hidden_size"))


def _number(value: object) -> int:
    """Return a positive number of dimensions or tokens; 0 for any other value."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_DIMENSIONS:
        return value
    return 0
