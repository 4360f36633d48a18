"""Generate random JSON schemas of the kinds in the JSON Schema test suite."""

import random
from typing import Any

_NAMES = ("a", "b", "name", "ü", "x y", "a/b", 'q"', "$ref", "type")
_FORMATS = ("date", "time", "date-time", "ipv4", "uuid", "email")
_PATTERNS = ("^[a-c]{2,4}$", "[0-9]+", "^(x|yz)*$", r"^\d{3}-\w$")


class Schemas:
    """Generator of schemas with small values, so that a random model finishes them."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def draw(self) -> dict[str, Any]:
        """A complete schema."""
        self._definitions = {}
        schema = self._value(3)
        if self._definitions:
            schema = schema | {"$defs": self._definitions}
        return schema

    def _value(self, depth: int) -> dict[str, Any]:
        leaves = (self._string, self._integer, self._number, self._constant, self._format)
        nodes = (self._object, self._object, self._array, self._tuple, self._any_of, self._all_of)
        kinds = (*leaves, *nodes, self._one_of, self._reference) if depth > 0 else leaves
        schema = self._chance.choice(kinds)(depth - 1)
        if self._chance.random() < 0.2:
            schema = schema | {"description": "what it is", "title": "T", "examples": [1]}
        return schema

    def _string(self, _: int) -> dict[str, Any]:
        if self._chance.random() < 0.3:
            return {"type": "string", "pattern": self._chance.choice(_PATTERNS)}
        low = self._chance.randint(0, 3)
        return {"type": "string", "minLength": low, "maxLength": low + self._chance.randint(0, 5)}

    def _format(self, _: int) -> dict[str, Any]:
        return {"type": "string", "format": self._chance.choice(_FORMATS)}

    def _integer(self, _: int) -> dict[str, Any]:
        low = self._chance.randint(-1000, 1000)
        if self._chance.random() < 0.3:
            return {"type": "integer", "exclusiveMinimum": low, "maximum": low + 50}
        return {"type": "integer", "minimum": low, "maximum": low + self._chance.randint(0, 10**5)}

    def _number(self, _: int) -> dict[str, Any]:
        low = round(self._chance.uniform(-10, 10), 2)
        return {"type": "number", "minimum": low, "maximum": low + 5}

    def _constant(self, _: int) -> dict[str, Any]:
        values: list[Any] = [None, True, False, 0, -1.5, "x", "", 'é"\\\n', [1, "a"], {"k": None}]
        if self._chance.random() < 0.3:
            return {"const": self._chance.choice(values)}
        if self._chance.random() < 0.3:
            return {"type": self._chance.choice(["null", "boolean", ["null", "boolean"]])}
        return {"enum": self._chance.sample(values, self._chance.randint(1, 4))}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._chance.sample(_NAMES, self._chance.randint(0, 4))
        properties = {name: self._value(depth) for name in names}
        required = [name for name in names if self._chance.random() < 0.7]
        extra = self._chance.choice([False, False, {"type": "integer", "maximum": 9, "minimum": 0}])
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": extra,
        }
        if extra is not False:
            schema["maxProperties"] = len(names) + 2
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        low = self._chance.randint(0, 2)
        most = low + self._chance.randint(0, 2)
        return {"type": "array", "items": self._value(depth), "minItems": low, "maxItems": most}

    def _tuple(self, depth: int) -> dict[str, Any]:
        items = [self._value(depth) for _ in range(self._chance.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def _any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._value(depth) for _ in range(self._chance.randint(1, 3))]}

    def _one_of(self, depth: int) -> dict[str, Any]:
        kinds = []
        for kind in ("cat", "dog"):
            one = self._object(depth)
            one["properties"]["kind"] = {"const": kind}
            one["required"].append("kind")
            kinds.append(one)
        return {"oneOf": kinds}

    def _all_of(self, depth: int) -> dict[str, Any]:
        low = self._chance.randint(0, 9)
        whole = {"type": "object", "properties": {"n": {"type": "integer", "minimum": low}}}
        more = {"properties": {"n": {"maximum": low + 100}, "m": self._value(depth)}}
        return {"allOf": [whole, more, {"required": ["n", "m"]}, {"maxProperties": 3}]}

    def _reference(self, depth: int) -> dict[str, Any]:
        name = f"d{len(self._definitions)}"
        self._definitions[name] = {}
        self._definitions[name] = self._value(depth)
        return {"$ref": f"#/$defs/{name}"}
