"""Memory sizes as users write them."""

import pytest

from reconciler.core.sizes import UNITS, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0B", 0),
        ("512B", 512),
        ("2kB", 2_000),
        ("2KB", 2_000),
        ("400MB", 400_000_000),
        ("1.5GB", 1_500_000_000),
        ("1.1TB", 1_100_000_000_000),
        ("1KiB", 1024),
        ("3MiB", 3 * 2**20),
        ("24GiB", 24 * 2**30),
        ("1TiB", 2**40),
        (" 24 GiB ", 24 * 2**30),
        ("0.1B", 0),
    ],
)
def test_a_size_is_read_exactly(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "24",
        "24 ",
        "-1GB",
        "24G",
        "24gb",
        "24Mb",
        "1e3MB",
        "1,5GB",
        ".5GB",
        "٣GB",
        "9" * 16,
    ],
)
def test_an_invalid_size_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; use a number and a unit") as raised:
        parse_size(text)
    assert all(unit in str(raised.value) for unit in UNITS)
