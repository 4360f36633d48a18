"""Chat templates of a checkpoint, read from the same files as transformers' tokenizers read.

A template is in chat_template.jinja (further ones in additional_chat_templates/), else in
tokenizer_config.json as a string, a list of {name, template}, or an object of templates by name.
chat_template.json is the older file of processors; the worker uses it if the tokenizer has no
template of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.models.files import faulty, read_bytes
from reconciler.models.jsonfile import optional_object

MAX_BYTES = 1_000_000
"""Maximum bytes of one template. The longest published ones have about 50,000."""


def chat_templates(path: Path, tokenizer_config: Mapping[str, Any]) -> list[str]:
    """The templates of the checkpoint in directory `path`, without their names."""
    files = [path / "chat_template.jinja"]
    files += sorted((path / "additional_chat_templates").glob("*.jinja"))
    found = [text for file in files if (text := _text(file)) is not None]
    return (
        found
        or _texts(tokenizer_config.get("chat_template"))
        or _texts(optional_object(path / "chat_template.json").get("chat_template"))
    )


def first_template(path: Path) -> str | None:
    """The template for requests without tools. Raises OSError or `FaultyFileError`."""
    found = chat_templates(path, optional_object(path / "tokenizer_config.json"))
    return found[0] if found else None


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    entries = value if isinstance(value, list) else [value]
    texts = [entry.get("template") if isinstance(entry, dict) else entry for entry in entries]
    return [text for text in texts if isinstance(text, str)]


def _text(path: Path) -> str | None:
    """Read a file; None if it does not exist. Raises OSError or `FaultyFileError`."""
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  hostile files can raise any exception
        raise faulty(path, error) from None
