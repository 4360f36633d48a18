"""Determine which request defaults a model supports, by rendering its chat template.

A record's defaults apply to every request that does not send the key. A default that the model does
not support, such as an effort for a model that does not reason, would make every such request fail.
Like a load setting that does not apply, it is dropped with a warning when the session is opened.
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
"""Defaults that the chat template handles."""

_CHAT = msgspec.json.encode({"messages": [{"role": "user", "content": "a"}]})


@dataclass(frozen=True)
class Applicable:
    """Defaults that a model supports, with warnings about the others."""

    values: Mapping[str, Any]
    warnings: tuple[SettingWarning, ...] = ()

    def added_to(self, opened: SessionOpened, asked: Mapping[str, Any]) -> SessionOpened:
        """Complete the result of opening a session with the defaults `asked`."""
        return replace(
            opened,
            warnings=opened.warnings + self.warnings,
            unused_defaults=tuple(key for key in asked if key not in self.values),
        )


def applicable(asked: Mapping[str, Any], preprocessor: Preprocessor) -> Applicable:
    """Select the defaults that the model's chat template accepts in a chat of one user turn."""
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
            reason = f"not applied to requests: {error}"
            warnings.append(SettingWarning(f"defaults.{key}", shown[:200], reason))
        else:
            values = tried
    return Applicable(values, tuple(warnings))
