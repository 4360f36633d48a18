"""Parses values that models write: JSON, almost JSON, Python literals, and text typed by a schema.

`json` parses valid JSON. A small tolerant parser accepts almost JSON: raw line breaks and unknown
escapes in strings, single quotes, unquoted keys, trailing commas, Python's literals, NaN (null, as
JSON has none), and brackets that are not closed at the end.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
"""Maximum depth of nested containers; no reasonable call is deeper."""

_WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    "nan": None,
    "undefined": None,
    "infinity": None,
    "-infinity": None,
}
_NUMBER = re.compile(r"-?\d+(?P<fraction>\.\d*)?(?P<exponent>[eE][+-]?\d+)?")
_WORD = re.compile(r"-?[A-Za-z_]\w*")
_KEY = re.compile(r"[^\s:=,{}\[\]()\"'][^:=,{}\[\]()\"']*")
_SPACE = re.compile(r"\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CLOSERS = {"[": "]", "{": "}", "(": ")"}
_DECODER = json.JSONDecoder(strict=False)


class Tolerant:
    """Parses values in a text that is almost JSON. Raises ValueError."""

    def __init__(
        self, text: str, *, quotes: Mapping[str, str] | None = None, unclosed: bool = False
    ) -> None:
        """`quotes`: opening -> closing mark of strings without escapes, in addition to " and '.

        `unclosed`: close brackets that are open at the end; strings are never closed.
        """
        self.text, self.position = text, 0
        self._quotes, self._unclosed = quotes or {}, unclosed

    def value(self, depth: int = 0) -> Any:
        """Parse the next value."""
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        self.space()
        for opens, closes in self._quotes.items():
            if self.accept(opens):
                end = self.text.find(closes, self.position)
                if end < 0:
                    raise ValueError("a string is not closed")
                begin, self.position = self.position, end + len(closes)
                return self.text[begin:end]
        character = self.peek()
        if character in ('"', "'"):
            return self._string()
        if character in _CLOSERS:
            self.position += 1
            return self._container(character, depth)
        if (number := _NUMBER.match(self.text, self.position)) is not None:
            self.position = number.end()
            whole = number["fraction"] is None and number["exponent"] is None
            return int(number[0]) if whole else float(number[0])
        word = _WORD.match(self.text, self.position)
        if word is not None and word[0].lower() in _WORDS:
            self.position = word.end()
            return _WORDS[word[0].lower()]
        raise ValueError(f"no value at {self.text[self.position : self.position + 20]!r}")

    def _container(self, opening: str, depth: int) -> Any:
        closing = _CLOSERS[opening]
        pairs: dict[str, Any] = {}
        items: list[Any] = []
        while not self._closed(closing):
            if opening == "{":
                key = self.key()
                self.space()
                if not self.accept(":"):
                    raise ValueError(f"no value for {key!r}")
                pairs[key] = self.value(depth + 1)
            else:
                items.append(self.value(depth + 1))
            self.space()
            if not self.accept(",") and self.peek() not in (closing, ""):
                raise ValueError("values are not separated by commas")
        return pairs if opening == "{" else items

    def _closed(self, closing: str) -> bool:
        self.space()
        if self.peek() == "" and self._unclosed:
            return True
        return self.accept(closing)

    def key(self) -> str:
        """Parse the next key, quoted or not."""
        self.space()
        if self.peek() in ('"', "'") or any(
            self.text.startswith(q, self.position) for q in self._quotes
        ):
            return str(self.value())
        found = _KEY.match(self.text, self.position)
        if found is None:
            raise ValueError(f"no key at {self.text[self.position : self.position + 20]!r}")
        self.position = found.end()
        return found[0].rstrip()

    def _string(self) -> str:
        quote, text = self.peek(), self.text
        parts: list[str] = []
        at = self.position + 1
        special = re.compile(rf"[{quote}\\]")
        while (found := special.search(text, at)) is not None:
            parts.append(text[at : found.start()])
            at = found.end()
            if found[0] == quote:
                self.position = at
                return _join_surrogates("".join(parts))
            if at >= len(text):
                break
            if text[at] == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", text[at + 1 : at + 5]):
                parts.append(chr(int(text[at + 1 : at + 5], 16)))
                at += 5
            else:  # an escape that JSON does not define is kept as written
                escape = text[at]
                parts.append(_ESCAPES.get(escape, escape if escape in "\"'\\/" else "\\" + escape))
                at += 1
        raise ValueError("a string is not closed")

    def space(self) -> None:
        """Skip whitespace."""
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def peek(self) -> str:
        """Return the next character; "" at the end."""
        return self.text[self.position : self.position + 1]

    def accept(self, mark: str) -> bool:
        """Skip the mark if it comes next. True if it did."""
        if not self.text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        return True


def values(text: str, *, unclosed: bool = False) -> list[Any]:
    """Parse the consecutive values of a text. Raises ValueError."""
    found: list[Any] = []
    at = _skip(text, 0)
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            parser = Tolerant(text, unclosed=unclosed)
            parser.position = at
            value, at = parser.value(), parser.position
        found.append(finite(value))
        at = _skip(text, at)
    return found


def _skip(text: str, at: int) -> int:
    """Return the position after whitespace and separators."""
    while at < len(text) and (text[at].isspace() or text[at] in ",;"):
        at += 1
    return at


def finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def serialize(value: Any) -> str:
    """Serialize to JSON that UTF-8 can encode: lone surrogates stay escaped."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _join_surrogates(text: str) -> str:
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_ALIASES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}
"""Type names that occur in schemas but are not part of JSON Schema."""


def types(schema: Any, depth: int = 0) -> frozenset[str]:
    """Return the types that a JSON Schema allows; empty if it names none."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return frozenset()
    declared = schema.get("type")
    found = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        found |= {one for one in declared if isinstance(one, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(key)
        for choice in choices if isinstance(choices, list) else []:
            found |= types(choice, depth + 1)
    if not found and isinstance(schema.get("enum"), list):
        found |= {_type_of(one) for one in schema["enum"]}
    if schema.get("nullable") is True:
        found.add("null")
    return frozenset(_ALIASES.get(one.lower(), one.lower()) for one in found)


def _type_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def from_text(text: str, schema: Any) -> Any:
    """Convert unquoted text to a value, by the schema's types or else by its syntax."""
    allowed = types(schema)
    if allowed == {"string"}:
        return text
    try:
        (value,) = values(text.strip())
    except ValueError:
        return text
    if not allowed:
        return text if isinstance(value, str) else value
    if "number" in allowed and isinstance(value, float):
        return value
    value = _whole(value, allowed)
    return value if _is_one_of(value, allowed - {"string"}) else text


def to_schema(value: Any, schema: Any) -> Any:
    """Convert a value to the schema's type if it is only written as another type."""
    allowed = types(schema)
    if not allowed:
        return value
    if isinstance(value, str) and "string" not in allowed:
        return from_text(value, schema)
    if allowed == {"string"} and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return _whole(value, allowed)


def _whole(value: Any, allowed: frozenset[str]) -> Any:
    """Convert floats such as 3.0 to integers if only integers are allowed."""
    if isinstance(value, float) and "integer" in allowed and "number" not in allowed:
        return int(value) if value.is_integer() else value
    return value


def _is_one_of(value: Any, allowed: frozenset[str]) -> bool:
    return any(
        isinstance(value, _PYTHON_TYPES.get(name, ()))
        and (name == "boolean" or not isinstance(value, bool))
        for name in allowed
    )
