"""Names, times and lines in Ollama's format."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.core import ollama


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (None, None),
        ("", None),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (300, 300),
        (1.5, 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("300ms", 0.3),
        ("10", 10),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_keep_alive_is_a_number_or_a_duration(sent: Any, seconds: float | None) -> None:
    assert ollama.keep_alive_seconds(sent) == seconds


@pytest.mark.parametrize("sent", ["5x", "m", "5 m", "1h-5m", "forever", True, [], {}, "9" * 99])
def test_an_invalid_duration_is_an_error(sent: Any) -> None:
    with pytest.raises(ValueError, match=r"keep_alive: .* is not a duration"):
        ollama.keep_alive_seconds(sent)


def test_a_name_without_a_tag_means_latest() -> None:
    for name in ("tiny/llama", "llama", "host:1/x"):
        assert ollama.with_tag(name) == f"{name}:latest"
        assert ollama.without_latest(f"{name}:latest") == ollama.without_latest(name) == name
    assert ollama.with_tag("tiny/llama:mine") == ollama.without_latest("tiny/llama:mine")


def test_a_keep_alive_line_has_no_content() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    line = ollama.sign_of_life('a"b', ollama.NO_RESPONSE, at)
    assert line.startswith(b" ")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "model": 'a"b',
        "created_at": "2026-01-02T03:04:05Z",
        "response": "",
        "done": False,
    }
