"""Pagination of models as Anthropic's clients use it."""

from typing import Any

import pytest
from multidict import MultiDict

from reconciler.api.errors import ApiError
from reconciler.api.model_pages import page

MODELS = [{"id": name, "created": 0} for name in "abcde"]


def names(**query: str) -> tuple[str, bool]:
    found = page(MODELS, MultiDict(query))
    listed = "".join(model["id"] for model in found["data"])
    assert (found["first_id"], found["last_id"]) == (listed[:1] or None, listed[-1:] or None)
    return listed, found["has_more"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ("abcde", False)),
        ({"limit": "2"}, ("ab", True)),
        ({"limit": "5"}, ("abcde", False)),
        ({"limit": "2", "after_id": "b"}, ("cd", True)),
        ({"limit": "2", "after_id": "c"}, ("de", False)),
        ({"after_id": "e"}, ("", False)),
        ({"limit": "2", "before_id": "d"}, ("bc", True)),
        ({"limit": "3", "before_id": "d"}, ("abc", False)),
        ({"before_id": "a"}, ("", False)),
    ],
)
def test_a_page_has_the_requested_models(query: dict[str, str], expected: tuple[str, bool]) -> None:
    assert names(**query) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "-1"},
        {"limit": "1001"},
        {"limit": "ten"},
        {"limit": "٣"},
        {"after_id": "x"},
        {"before_id": ""},
    ],
)
def test_an_invalid_query_parameter_is_named(query: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as error:
        page(MODELS, MultiDict(query))
    assert error.value.body["param"] in query
