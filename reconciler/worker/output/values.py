"""Values that models write: JSON, almost JSON, Python literals, and text that a schema types.

`json` reads what is JSON. What is not quite JSON is read by a small tolerant parser: raw line
breaks and unknown escapes in strings, single quotes, unquoted keys, trailing commas, Python's
literals, NaN (null, as JSON has none), and brackets that were not closed at the end.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
"""Nested containers; more is not a call that anyone makes."""

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
    """Reads values from a text that is almost JSON. Raises ValueError."""

    def __init__(
        self, text: str, *, quotes: Mapping[str, str] | None = None, unclosed: bool = False
    ) -> None:
        """`quotes`: opening -> closing mark of strings without escapes, besides " and '.

        `unclosed`: brackets that are open at the end are closed there; a string never is.
        """
        self.text, self.position = text, 0
        self._quotes, self._unclosed = quotes or {}, unclosed

    def value(self, depth: int = 0) -> Any:
        """The next value."""
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
                raise ValueError("values are not separated")
        return pairs if opening == "{" else items

    def _closed(self, closing: str) -> bool:
        self.space()
        if self.peek() == "" and self._unclosed:
            return True
        return self.accept(closing)

    def key(self) -> str:
        """The next key, quoted or not."""
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
            else:  # an escape that JSON does not know is kept as it was written
                escape = text[at]
                parts.append(_ESCAPES.get(escape, escape if escape in "\"'\\/" else "\\" + escape))
                at += 1
        raise ValueError("a string is not closed")

    def space(self) -> None:
        """Skip whitespace."""
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def peek(self) -> str:
        """The next character; "" at the end."""
        return self.text[self.position : self.position + 1]

    def accept(self, mark: str) -> bool:
        """Take the mark if it comes next."""
        if not self.text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        return True


def values(text: str, *, unclosed: bool = False) -> list[Any]:
    """The values that stand in a text one after the other. Raises ValueError where it is none."""
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
    """Whitespace and separators between values."""
    while at < len(text) and (text[at].isspace() or text[at] in ",;"):
        at += 1
    return at


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot write."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def serialize(value: Any) -> str:
    """Write JSON that UTF-8 can hold: half a surrogate pair stays escaped."""
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
"""Names of types that schemas have and JSON Schema has not."""


def types(schema: Any, depth: int = 0) -> frozenset[str]:
    """Types that a JSON Schema allows; empty if it names none."""
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
    """The value that a text without quotes stands for: the schema decides, else its look."""
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
    """A value of the type that the schema names, if it is only written as another."""
    allowed = types(schema)
    if not allowed:
        return value
    if isinstance(value, str) and "string" not in allowed:
        return from_text(value, schema)
    if allowed == {"string"} and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return _whole(value, allowed)


def _whole(value: Any, allowed: frozenset[str]) -> Any:
    """3.0 where only integers are allowed is 3."""
    if isinstance(value, float) and "integer" in allowed and "number" not in allowed:
        return int(value) if value.is_integer() else value
    return value


def _is_one_of(value: Any, allowed: frozenset[str]) -> bool:
    return any(
        isinstance(value, _PYTHON_TYPES.get(name, ()))
        and (name == "boolean" or not isinstance(value, bool))
        for name in allowed
    )
