"""Which defaults a model can be given: tried on its chat template when a session is opened.

A record's default goes into every request that leaves its key out. One that the model has no
meaning for, such as the effort of a model that does not reason, would have every such request
refused; it is left out instead, with a warning, as a load setting is that does not apply.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from reconciler.core.protocol import SessionOpened
from reconciler.core.records import SettingWarning
from reconciler.worker.errors import RequestError
from reconciler.worker.preprocessing.pool import Preprocessor

TEMPLATED = ("chat_template_kwargs", "reasoning_effort", "system_prompt")
"""Defaults that the chat template acts on."""

_CHAT = msgspec.json.encode({"messages": [{"role": "user", "content": "a"}]})


@dataclass(frozen=True)
class Applicable:
    """Defaults that requests to a model can have, and why they cannot have the others."""

    values: Mapping[str, Any]
    warnings: tuple[SettingWarning, ...] = ()

    def added_to(self, opened: SessionOpened, asked: Mapping[str, Any]) -> SessionOpened:
        """What is answered where a session was opened with the defaults `asked`."""
        return replace(
            opened,
            warnings=opened.warnings + self.warnings,
            unused_defaults=tuple(key for key in asked if key not in self.values),
        )


def applicable(asked: Mapping[str, Any], preprocessor: Preprocessor) -> Applicable:
    """The defaults that the model's chat template acts on in a chat of one user turn."""
    values = {key: value for key, value in asked.items() if key not in TEMPLATED}
    warnings = []
    for key in TEMPLATED:
        if key not in asked:
            continue
        tried = values | {key: asked[key]}
        try:
            _, prompt = preprocessor.submit(_CHAT, tried).result()
            if prompt.warnings:
                raise RequestError(prompt.warnings[0], "no_effect", key)
        except RequestError as error:
            value = asked[key]
            shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            reason = f"left out of requests: {error}"
            warnings.append(SettingWarning(f"defaults.{key}", shown[:200], reason))
        else:
            values = tried
    return Applicable(values, tuple(warnings))
