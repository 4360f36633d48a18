"""Bytes -> documents with positions."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import manifest
from reconciler.core.manifest import (
    Diagnostic,
    ManifestError,
    SourceLocation,
    parse,
    parse_file,
    printable,
)
from reconciler.core.template_variables import MAX_DEPTH


def value(text: str) -> object:
    (document,) = parse(text.encode())
    return document.value


def flaw(data: bytes) -> Diagnostic:
    with pytest.raises(ManifestError) as raised:
        parse(data)
    return raised.value.flaw


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("no", "no"), ("yes", "yes"), ("on", "on"), ("12:30:45", "12:30:45")),
        *(("2026-01-01", "2026-01-01"), ("1_000", "1_000"), ("0b1", "0b1"), ("<<", "<<")),
        *(("true", True), ("False", False), ("NULL", None), ("~", None)),
        *(("12", 12), ("-7", -7), ("0o17", 15), ("0x1F", 31), ("010", 10)),
        *(("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("-.inf", float("-inf"))),
        *(("'12'", "12"), ('"true"', "true"), ("|-\n  12", "12"), ('""', "")),
    ],
)
def test_scalars_follow_yaml_1_2s_core_schema(text: str, expected: object) -> None:
    assert value(f"k: {text}\n") == {"k": expected}
    assert type(value(f"k: {text}\n")["k"]) is type(expected)  # type: ignore[index]


def test_every_key_and_item_has_a_position() -> None:
    (document,) = parse(b"a:\n  b: [1, 2]\n")
    assert document.position(()) == SourceLocation(1, 1)
    assert document.position(("a", "b")) == SourceLocation(2, 3)
    assert document.position(("a", "b", 1)) == SourceLocation(2, 10)
    assert document.position(("a", "missing", "deeper")) == SourceLocation(1, 1)


def test_documents_are_separated_and_empty_ones_omitted() -> None:
    first, second = parse(b"---\na: 1\n---\n---\n# nothing\n---\nb: 2\n")
    assert (first.value, second.value) == ({"a": 1}, {"b": 2})
    assert second.position(("b",)) == SourceLocation(7, 1)


def test_json_is_accepted() -> None:
    assert value('{"a": [1, "x", null, true], "b": {}}') == {"a": [1, "x", None, True], "b": {}}


def test_an_alias_repeats_its_anchor() -> None:
    assert value("a: &x {k: [1]}\nb: *x\n") == {"a": {"k": [1]}, "b": {"k": [1]}}


@pytest.mark.parametrize(
    ("data", "words", "position"),
    [
        (b"a: 1\nb: 2\na: 3\n", "duplicate key 'a'", SourceLocation(3, 1)),
        (b"a: !!python/object:os.system {}\n", "tags", SourceLocation(1, 4)),
        (b"a: [1, 2\n", "not valid YAML", SourceLocation(2, 1)),
        (b"a: *nowhere\n", "unknown alias", SourceLocation(1, 4)),
        (b"a: &x [*x]\n", "unknown alias", SourceLocation(1, 8)),
        (b"? [complex]\n: 1\n", "plain string", SourceLocation(1, 3)),
        (b"\tk: 1\n", "not valid YAML", SourceLocation(1, 1)),
        (b"a: \xff\n", "not valid YAML", SourceLocation(1, 1)),
        (b"[" * (MAX_DEPTH + 2), "deeper", SourceLocation(1, MAX_DEPTH + 2)),
        (b"a: " + b"9" * 5000, "digits", SourceLocation(1, 4)),
        (b"a: 0x" + b"f" * 4000, "digits", SourceLocation(1, 4)),
    ],
)
def test_an_error_has_its_position(data: bytes, words: str, position: SourceLocation) -> None:
    found = flaw(data)
    assert words in found.message
    assert found.position == position


def test_a_separator_at_the_end_is_an_open_end() -> None:
    for text in ("a: 1\n---\n", "a: 1\n---\n# then\n", "---\n"):
        assert parse_file(text.encode()).open_end
    for text in ("", "a: 1\n", "---\na: 1\n", "# nothing\n", "a: 1\n...\n"):
        assert not parse_file(text.encode()).open_end


def test_text_of_a_file_is_printed_on_one_bounded_line() -> None:
    assert printable("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert len(printable("k" * 5000)) == manifest.MAX_SHOWN


def test_aliases_count_by_their_expanded_size() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases expanded" in flaw("\n".join(lines).encode()).message


def test_the_size_of_a_file_is_limited() -> None:
    assert "larger than" in flaw(b"#" * (manifest.MAX_BYTES + 1)).message


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary() | st.text(alphabet="ab:- []{}&*!|>'\"#?,\n\t0.~", max_size=40).map(str.encode))
def test_any_bytes_raise_only_manifest_errors(data: bytes) -> None:
    with suppress(ManifestError):
        parse(data)
