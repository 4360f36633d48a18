"""Settings of editors and desktop programs for this daemon.

These programs cannot be started with settings for one session: they read them from the user's
files, which `launch` does not write. `launch NAME --print` prints the lines to add.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.recipes.tools import PROVIDER, Target, output_tokens

CONTEXT = 32_768
"""Context length, in tokens, if the instance's is unknown."""


@dataclass(frozen=True)
class Editor:
    """A program that reads its settings from one of the user's files."""

    name: str
    """Name on the command line."""
    title: str
    """Name as its vendor writes it."""
    place: str
    """Path or name of the settings file, to be shown."""
    settings: Callable[[Target], str]
    """Text to add to the file."""


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _zed(target: Target) -> str:
    # Zed reads the API key from the variable RECONCILER_API_KEY or from the keychain.
    model = {
        "name": target.model,
        "display_name": target.model,
        "max_tokens": target.context_length or CONTEXT,
        "capabilities": {"tools": True, "images": False},
    }
    provider = {"api_url": target.openai, "available_models": [model]}
    return _json({"language_models": {"openai_compatible": {PROVIDER: provider}}})


def _vscode(target: Target) -> str:
    context = target.context_length or CONTEXT
    answer = output_tokens(context)
    model = {
        "id": target.model,
        "name": target.model,
        "url": f"{target.openai}/chat/completions",
        "toolCalling": True,
        "vision": False,
        "maxInputTokens": context - answer,
        "maxOutputTokens": answer,
    }
    endpoint = {
        "vendor": "customendpoint",
        "name": PROVIDER,
        "apiKey": target.key,
        "apiType": "chat-completions",
        "models": [model],
    }
    return _json([endpoint])


def _continue(target: Target) -> str:
    # JSON strings are valid in YAML.
    return f"""\
models:
  - name: {json.dumps(target.model)}
    provider: openai
    model: {json.dumps(target.model)}
    apiBase: {target.openai}
    apiKey: {json.dumps(target.key)}
    roles: [chat, edit, apply]
    capabilities: [tool_use]
    defaultCompletionOptions:
      contextLength: {target.context_length or CONTEXT}
"""


def _raycast(target: Target) -> str:
    keys = f"    api_keys:\n      {PROVIDER}: {json.dumps(target.token)}\n" if target.token else ""
    return f"""\
providers:
  - id: {PROVIDER}
    name: {PROVIDER}
    base_url: {target.openai}
{keys}    models:
      - id: {json.dumps(target.model)}
        name: {json.dumps(target.model)}
        context: {target.context_length or CONTEXT}
        abilities:
          system_message:
            supported: true
          tools:
            supported: true
"""


EDITORS = {
    editor.name: editor
    for editor in (
        Editor("zed", "Zed", "~/.config/zed/settings.json", _zed),
        Editor(
            "vscode",
            "VS Code",
            "chatLanguageModels.json (Chat: Open Language Models (JSON))",
            _vscode,
        ),
        Editor("continue", "Continue", "~/.continue/config.yaml", _continue),
        Editor("raycast", "Raycast", "~/.config/raycast/ai/providers.yaml", _raycast),
    )
}
"""Editors by name."""
