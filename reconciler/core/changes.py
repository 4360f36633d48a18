"""How two specs differ, in words: the reason of an action that replaces one by the other."""

from reconciler.core.records import LoadSpec


def model_name(spec: LoadSpec) -> str:
    """The model, in words."""
    return spec.model if spec.revision is None else f"{spec.model} at {spec.revision}"


def changes(before: LoadSpec, after: LoadSpec) -> str:
    """The settings that change, in words."""
    old, new = _settings(before), _settings(after)
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if not keys:
        return f"the model is now named {model_name(after)}"
    return "changed: " + ", ".join(_change(k, old.get(k), new.get(k)) for k in keys)


def _change(key: str, old: object, new: object) -> str:
    """One change in words. Reasons are logged, and a prompt must not be: a text is not shown."""
    if key in TEXTS:
        return key
    return f"{key} from {'default' if old is None else old} to {'default' if new is None else new}"


TEXTS = ("defaults.system_prompt", "defaults.chat_template_kwargs")


def _settings(spec: LoadSpec) -> dict[str, object]:
    """What a session puts in force, by key, as far as the spec has an opinion."""
    defaults = {f"defaults.{key}": value for key, value in spec.defaults.sent().items()}
    adapter = {"adapter": spec.adapter} if spec.adapter is not None else {}
    return spec.config.sent() | defaults | adapter
