"""Bytes -> documents, with the position of every key and value.

PyYAML's C parser turns bytes into events; one walk turns events into plain values. The walk
resolves scalars by YAML 1.2's core schema (`no` is a string), refuses duplicate keys, tags and
merge keys, and bounds size, depth and the expansion of aliases.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from reconciler.core.template_variables import MAX_DEPTH

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
"""Limit with all aliases expanded."""
MAX_DIGITS = 100
"""Digits of a number: far more than 64 bits need; Python refuses to print more than 4,300."""
MAX_SHOWN = 300
"""Maximum length of text from a file in a message, in characters."""

Path = tuple[str | int, ...]

_CORE_SCALARS: tuple[tuple[re.Pattern[str], Any], ...] = (
    # YAML 1.2.2, section 10.3.2: tag resolution of the core schema.
    (re.compile(r"(?:null|Null|NULL|~|)"), lambda _: None),
    (re.compile(r"(?:true|True|TRUE)"), lambda _: True),
    (re.compile(r"(?:false|False|FALSE)"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda s: int(s, 0)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda s: int(s, 0)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)"), lambda s: float(s.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda _: float("nan")),
)


@dataclass(frozen=True)
class SourceLocation:
    """A position in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Diagnostic:
    """An error in a manifest: the message, with what to do, and its position."""

    message: str
    position: SourceLocation
    key: str = ""
    """Dotted path of the key, such as `spec.config.context_length`."""


class ManifestError(Exception):
    """A file that cannot be read as documents."""

    def __init__(self, message: str, position: SourceLocation, key: str = "") -> None:
        super().__init__(message)
        self.flaw = Diagnostic(printable(message), position, printable(key))


@dataclass(frozen=True)
class Document:
    """One YAML document as plain values, with the position of each path in it."""

    value: Any
    positions: Mapping[Path, SourceLocation] = field(repr=False)
    """Positions by path: of the key in a mapping, of the item in a list; of the document by ()."""

    def position(self, path: Path) -> SourceLocation:
        """The position of `path`, or of its nearest parent that has one."""
        while path not in self.positions:
            path = path[:-1]
        return self.positions[path]


@dataclass(frozen=True)
class Parsed:
    """The documents of a file; empty ones are omitted."""

    documents: tuple[Document, ...]
    open_end: bool = False
    """True if nothing follows the last `---`, as in a file that is still being written."""


def parse(data: bytes) -> tuple[Document, ...]:
    """The documents of a file; empty ones are omitted. Raises `ManifestError`."""
    return parse_file(data).documents


def parse_file(data: bytes) -> Parsed:
    """The documents of a file, and how it ends.

    Raises `ManifestError` at the first construct that is not plain, bounded YAML.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError(f"larger than {MAX_BYTES} bytes", SourceLocation(1, 1))
    try:
        walk = _Walk(data)
        documents = tuple(d for d in walk.documents() if d.value is not None)
        return Parsed(documents, walk.open_end)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = "; ".join(w for w in (error.problem, error.context) if w)
        position = SourceLocation(mark.line + 1, mark.column + 1) if mark else SourceLocation(1, 1)
        raise ManifestError(f"not valid YAML: {words}", position) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"not valid YAML: {error}", SourceLocation(1, 1)) from None


class _Walk:
    """One pass over a file's events."""

    def __init__(self, data: bytes) -> None:
        self.events: Iterator[Any] = yaml.parse(data, Loader=yaml.CBaseLoader)
        self.positions: dict[Path, SourceLocation] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0
        self.open_end = False

    def documents(self) -> Iterator[Document]:
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.positions, self.anchors = {}, {}
                first = next(self.events)
                self.positions[()] = _position(first)
                value = self.value(first, ())
                self.open_end = value is None and bool(event.explicit)
                yield Document(value, self.positions)

    def value(self, event: Any, path: Path) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        self.count(1, event)
        if len(path) > MAX_DEPTH:
            raise ManifestError(f"nested deeper than {MAX_DEPTH} levels", _position(event))
        _refuse_tags(event)
        before = self.nodes
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self.mapping(path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(path)
        else:
            value = _scalar(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.nodes - before + 1)
        return value

    def mapping(self, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise ManifestError("a key must be a plain string", _position(event))
            _refuse_tags(event)
            key = event.value
            here = (*path, key)
            if key in result:
                raise ManifestError(f"duplicate key '{key}'", _position(event), dotted(here))
            self.positions[here] = _position(event)
            result[key] = self.value(next(self.events), here)
        return result

    def sequence(self, path: Path) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = (*path, len(result))
            self.positions[here] = _position(event)
            result.append(self.value(event, here))
        return result

    def alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            raise ManifestError(f"unknown alias '*{event.anchor}'", _position(event))
        value, size = self.anchors[event.anchor]
        self.count(size, event)
        return value

    def count(self, nodes: int, event: Any) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            words = f"more than {MAX_NODES} values, aliases expanded"
            raise ManifestError(words, _position(event))


def printable(text: str, most: int = MAX_SHOWN) -> str:
    """Text of a file in a form safe for messages: one bounded line without control characters."""
    shown = text if len(text) <= most else text[: most - 3] + "..."
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def dotted(path: Path) -> str:
    """A path in dotted form: `spec.config.context_length`, `items[0].name`."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".")


def _position(event: Any) -> SourceLocation:
    return SourceLocation(event.start_mark.line + 1, event.start_mark.column + 1)


def _refuse_tags(event: Any) -> None:
    if event.tag is not None:
        raise ManifestError(f"tags such as '{event.tag}' are not supported", _position(event))


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted or a block: always a string
        return text
    for pattern, convert in _CORE_SCALARS:
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                words = f"a number of {len(text)} digits; at most {MAX_DIGITS}"
                raise ManifestError(words, _position(event))
            return convert(text)
    return text
