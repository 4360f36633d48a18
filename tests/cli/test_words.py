"""Parsing and printing of addresses, token counts, durations, tables and similar names."""

import click
import pytest
from rich.cells import cell_len

from reconciler.cli.address import normalize
from reconciler.cli.duration import Duration
from reconciler.cli.fit import GAP, fitted, shortened
from reconciler.cli.sizes import Tokens
from reconciler.core.near import hint, near


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("mac.local", "http://mac.local"),
        ("http://127.0.0.1:1234/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/api/v1", "http://127.0.0.1:1234"),
        ("https://mac.example/llm/v1", "https://mac.example/llm"),
        ("[::1]:1234", "http://[::1]:1234"),
    ],
)
def test_an_address_has_a_scheme_and_no_path_of_an_api(written: str, meant: str) -> None:
    assert normalize(written) == meant


@pytest.mark.parametrize(
    "written", ["", "http://", "ftp://mac", "mac:port", "mac:99999", "a b", "http://mac?x=1"]
)
def test_an_invalid_address_is_rejected(written: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        normalize(written)


def test_numbers_of_tokens() -> None:
    counts = {"16384": 16384, "16k": 16384, "1K": 1024, "1m": 1048576}
    for text, count in counts.items():
        assert Tokens().convert(text, None, None) == count
    for wrong in ("", "16kb", "1.5k", "-1", "k", "16 k"):
        with pytest.raises(click.BadParameter, match="16384 or 16k"):
            Tokens().convert(wrong, None, None)


def test_whole_seconds() -> None:
    assert Duration(whole=True).convert("10m", None, None) == 600
    with pytest.raises(click.BadParameter, match="whole number of seconds"):
        Duration(whole=True).convert("1.5s", None, None)


ROWS = [
    [
        "assistant",
        "True",
        "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit",
        "directory:/Users/me/m",
    ],
    ["a", "False", "x", "http"],
]
HEADINGS = ["NAME", "READY", "MODEL", "OWNER"]


def widths(rows: list[list[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(HEADINGS, *rows, strict=True)]


@pytest.mark.parametrize("columns", [120, 80, 60, 50])
def test_a_table_fits_its_terminal(columns: int) -> None:
    rows = fitted(HEADINGS, ROWS, columns)
    assert sum(widths(rows)) + GAP * 3 <= columns
    assert rows[0][:2] == ["assistant", "True"]
    assert rows[1] == ROWS[1]
    if columns == 120:
        assert rows == ROWS
    else:
        assert rows[0][2].startswith("mlx-")
        assert rows[0][2].endswith("bit")


def test_names_are_never_shortened() -> None:
    assert [row[0] for row in fitted(HEADINGS, ROWS, 10)] == ["assistant", "a"]
    assert widths(fitted(HEADINGS, ROWS, 10)) == [9, 5, 10, 10]


def test_a_long_text_loses_its_middle() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcd…ghijk"
    assert cell_len(shortened("模型模型模型模型", 9)) <= 9


def test_near_names() -> None:
    names = ["openai/gpt-oss-20b", "assistant", "narrow"]
    assert near("gpt-oss", names) == ["openai/gpt-oss-20b"]
    assert near("Asistant", names) == ["assistant"]
    assert near("zzz", names) == []
    assert near("a", names) == []
    assert hint("narow", names) == "; did you mean 'narrow'?"
    assert hint("zzz", names) == ""
