"""Whether a checkpoint is an embedding model, and how it makes a vector of a text.

sentence-transformers writes that beside the weights:

    modules.json                       the modules in order, each with its directory
    1_Pooling/config.json              how one vector is made of those of the tokens
    2_Dense/{config.json,model.safetensors}
    2_Normalize/                       its presence alone counts
    config_sentence_transformers.json  prompts, and which of them is the default
    sentence_bert_config.json          the longest text

Conversions to MLX often leave these files out. For the few families that people convert so, the
name of the directory says what the files said.
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
"""Of a module's files, as sentence-transformers names them."""

MAX_MODULES = 16

MAX_DIMENSIONS = 1_000_000

MAX_PROMPTS = 200

MAX_PROMPT = 10_000
"""Characters."""

_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Keys of a Pooling module's config.json in releases before 5.4."""


@dataclass(frozen=True)
class _Family:
    """What the files of a published family say, for conversions that lack them."""

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
"""bert, roberta, xlm-roberta, modernbert, nomic_bert, distilbert, deberta, camembert, ...; `new` is
Alibaba's GTE."""


def read(path: Path, config: Mapping[str, Any]) -> Embedder | None:
    """How the checkpoint in directory `path` embeds texts; None if it is no embedding model.

    Raises `FaultyFileError` naming the file with what cannot be honoured, or OSError.
    """
    listed = exists(path / MODULES) and unreadable(path) is None
    found = _of_modules(path, config) if listed else _of_name(path, config)
    if found is None:
        if _is_bidirectional(config):
            words = (
                "its tokens attend in both directions, as those of embedding models; modules.json "
            )
            raise FaultyFileError(path, f"{words}and the directories that it names are missing")
        return None
    found = replace(found, causal=_is_causal(config))
    return _with_settings(path, found)


def unreadable(path: Path) -> str | None:
    """Why modules.json says nothing; None if it can be read, or is not there.

    mlx_lm does not read it: a checkpoint that generates is loaded whatever it holds.
    """
    if not exists(path / MODULES):
        return None
    try:
        _json_list(path / MODULES)
    except FaultyFileError as error:
        return str(error)
    return None


def reranker(path: Path, config: Mapping[str, Any]) -> Reranker | None:
    """How the checkpoint in directory `path` judges documents; None if it is no known reranker.

    Nothing in the files of Qwen3-Reranker tells it from a model for chats, so that its name does.
    """
    if config.get("model_type") == "qwen3" and _QWEN3_RERANKER.search(_name(path)):
        return QWEN3
    return None


def is_encoder(model_type: str) -> bool:
    """True if an architecture is an encoder, of which embedding models are often made."""
    return _ENCODER.search(model_type) is not None


def module_directories(names: Sequence[str]) -> list[str]:
    """Of the names in a checkpoint's directory, those that may be directories of modules."""
    return [name for name in names if DIRECTORY.fullmatch(name)] if MODULES in names else []


def _of_modules(path: Path, config: Mapping[str, Any]) -> Embedder | None:
    settings = optional_object(path / SETTINGS)
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        return None  # a cross-encoder, or vectors as long as the vocabulary
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
    """The kind of each module and its directory, in order."""
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
    except Exception as error:  # noqa: BLE001  hostile files raise what they like
        raise faulty(file, error) from None


def _pooling(file: Path, config: Mapping[str, Any]) -> Embedder:
    if not exists(file):
        raise FaultyFileError(file, "it is missing; fetch the model again")
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
        raise FaultyFileError(file, "it names no way of pooling that is supported")
    width = _number(found.get("word_embedding_dimension", found.get("embedding_dimension")))
    hidden = _width(config)
    if width and hidden and width != hidden:
        words = f"it pools {width} numbers, and config.json has a hidden_size of {hidden}"
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
        raise FaultyFileError(file, "it has no in_features or out_features")
    activation = str(found.get("activation_function", "Tanh")).rpartition(".")[2][:80]
    if activation not in ACTIVATIONS:
        raise FaultyFileError(file, f"the activation function {activation} is not supported")
    bias = found.get("bias") is not False
    tensors = read_tensors(directory)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    expected = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if bias else {})
    if shapes != expected:
        words = f"it does not hold {inputs} x {outputs} numbers as config.json says"
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
    """The name of a checkpoint's directory; of a snapshot in the hub's cache, its repository's."""
    return path.parents[1].name if path.parent.name == "snapshots" else path.name


def _is_causal(config: Mapping[str, Any]) -> bool:
    return not _is_bidirectional(config) and config.get("is_causal") is not False


def _is_bidirectional(config: Mapping[str, Any]) -> bool:
    return config.get("use_bidirectional_attention") is True  # `vision`: of images alone


def _with_settings(path: Path, found: Embedder) -> Embedder:
    """With its prompts, and the longest text."""
    file = path / SETTINGS
    settings = optional_object(file)
    prompts = settings.get("prompts")
    if isinstance(prompts, dict) and prompts:
        kept = {k: v for k, v in prompts.items() if isinstance(v, str) and len(v) <= MAX_PROMPT}
        if len(kept) < len(prompts) or len(kept) > MAX_PROMPTS:
            raise FaultyFileError(file, "its prompts are too many, too long or no texts")
        found = replace(found, prompts=kept)
    default = settings.get("default_prompt_name")
    if default is not None and default not in found.prompts:
        words = f"default_prompt_name {str(default)[:80]} is none of its prompts"
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
    """A positive number that can be one of dimensions or tokens; 0 for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_DIMENSIONS:
        return value
    return 0
