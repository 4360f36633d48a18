"""Load the tokenizer of a checkpoint as `mlx_lm.load` does, with all stop tokens."""

import json
from pathlib import Path
from typing import Any

from mlx_lm.utils import load_config, load_tokenizer

from reconciler.worker.ends import ends
from reconciler.worker.preprocessing.pool import Preprocessor


def load(path: Path, preprocessor: Preprocessor) -> Any:
    """Load the wrapped tokenizer of the checkpoint in directory `path`, with all stop tokens.

    `preprocessor`: receives the tokenizer, and renders its chat templates. Propagates exceptions of
    mlx_lm and transformers for files that they cannot read.
    """
    tokenizer = load_tokenizer(path, eos_token_ids=load_config(path).get("eos_token_id"))
    if not tokenizer.has_chat_template:
        _take_processors_template(path, tokenizer)
    preprocessor.set_up(tokenizer)
    tokenizer.eos_token_ids = ends(path, tokenizer, preprocessor.renderer)
    return tokenizer


def _take_processors_template(path: Path, tokenizer: Any) -> None:
    """Set the chat template from chat_template.json, the file of transformers' older processors.

    Published models that also accept images have their only template there. Neither transformers'
    tokenizers nor mlx_lm read the file.
    """
    try:
        found = json.loads((path / "chat_template.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    template = found.get("chat_template") if isinstance(found, dict) else None
    if isinstance(template, str):
        tokenizer.chat_template = template
        tokenizer.has_chat_template = True
