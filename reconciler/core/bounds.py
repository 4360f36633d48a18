"""Length limits of a schema, checked before validation.

A validator checks every item of a list, even of one that is too long, and reports each invalid
item: a body of 1 MB can cost it minutes and gigabytes. This walk compares only lengths, and does
not descend into values that are too long. Values that pass are small enough to be validated item by
item.
"""

from collections.abc import Iterator
from typing import Any

from jsonschema import ValidationError

Location = tuple[str | int, ...]


def exceeded(
    schema: Any, value: Any, resolver: Any, path: Location = ()
) -> Iterator[ValidationError]:
    """Errors for the lists, objects and strings in `value` that are longer than `schema` allows.

    `resolver`, from `referencing`, resolves the references of the schema. Only `properties`,
    `items` and `$ref` are followed.
    """
    if "$ref" in schema:
        found = resolver.lookup(schema["$ref"])
        yield from exceeded(found.contents, value, found.resolver, path)
    keyword, length = _length(value)
    bound = schema.get(keyword)
    if bound is not None and length > bound:
        yield ValidationError(
            "", validator=keyword, path=path, validator_value=bound, instance=value
        )
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from exceeded(schema["items"], item, resolver, (*path, index))
    elif isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                yield from exceeded(inner, value[key], resolver, (*path, key))


def _length(value: Any) -> tuple[str, int]:
    """The keyword that bounds a value, and its length."""
    if isinstance(value, list):
        return "maxItems", len(value)
    if isinstance(value, dict):
        return "maxProperties", len(value)
    if isinstance(value, str):
        return "maxLength", len(value)
    return "", 0
