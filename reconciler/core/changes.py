"""Description of the difference between two specs: the message of an action that applies it."""

from reconciler.core.records import LoadSpec


def model_name(spec: LoadSpec) -> str:
    """The model and its revision, for a message."""
    return spec.model if spec.revision is None else f"{spec.model} at {spec.revision}"


def changes(before: LoadSpec, after: LoadSpec) -> str:
    """Description of the settings that change."""
    old, new = _settings(before), _settings(after)
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if not keys:
        return f"the model is now named {model_name(after)}"
    return "changed: " + ", ".join(_change(k, old.get(k), new.get(k)) for k in keys)


def _change(key: str, old: object, new: object) -> str:
    """Description of one change. It is logged, so texts, such as prompts, are left out."""
    if key in TEXTS:
        return key
    return f"{key} from {'default' if old is None else old} to {'default' if new is None else new}"


TEXTS = ("defaults.system_prompt", "defaults.chat_template_kwargs")


def _settings(spec: LoadSpec) -> dict[str, object]:
    """Settings of a session that the spec sets, by key."""
    defaults = {f"defaults.{key}": value for key, value in spec.defaults.sent().items()}
    adapter = {"adapter": spec.adapter} if spec.adapter is not None else {}
    drafts: dict[str, object] = {} if spec.prompt_lookup else {"prompt_lookup": False}
    if spec.draft_model is not None:
        drafts["draft_model"] = spec.draft_model
    return spec.config.sent() | defaults | adapter | drafts
