"""generation_config.json: the publisher's sampling settings, as defaults for requests.

vLLM reads the same keys. Two keys have a further meaning here: `do_sample: false` is greedy
decoding (temperature 0), as in transformers, and `max_new_tokens` is the default of `max_tokens`,
which a request may exceed (in vLLM it limits all requests). An out-of-range value is ignored with a
warning, so that it does not prevent the checkpoint from loading.
"""

import json
from pathlib import Path
from typing import Any

from reconciler.core.facts import GenerationConfig
from reconciler.core.records import SettingWarning
from reconciler.core.schema import check, read_defaults
from reconciler.models.files import is_file, read_bytes

MAX_BYTES = 1_000_000

KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Request keys by key in the file."""


def read(path: Path) -> GenerationConfig:
    """Read the defaults; empty if the file does not exist."""
    if not is_file(path):
        return GenerationConfig()
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError:
        return GenerationConfig()
    except ValueError as error:
        return _ignored(str(error))
    try:
        config = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return _ignored(f"it is not JSON: {error}")
    if not isinstance(config, dict):
        return _ignored("it is not a JSON object")
    return _read(config)


def _read(config: dict[str, Any]) -> GenerationConfig:
    found: dict[str, Any] = {}
    warnings = []
    for key, name in KEYS.items():
        value = config.get(key)
        if value is None:
            continue
        mistakes = check("defaults", {name: value})
        if mistakes:
            reason = f"{mistakes[0].message}; ignored"
            warnings.append(SettingWarning(f"generation_config.{key}", None, reason))
        else:
            found[name] = value
    if config.get("do_sample") is False:
        found["temperature"] = 0.0
    return GenerationConfig(read_defaults(found), tuple(warnings))


def _ignored(why: str) -> GenerationConfig:
    warning = SettingWarning("generation_config", None, f"generation_config.json is ignored: {why}")
    return GenerationConfig(warnings=(warning,))
