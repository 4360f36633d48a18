"""The headers in which clients send the daemon's token."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from reconciler.api.errors import ApiError
from reconciler.api.guard import guard
from reconciler.api.origins import Access
from reconciler.api.page import SERVES_PAGE

TOKEN = "zirconium"
BEARER = "Authorization"


async def ask(*headers: tuple[str, str]) -> web.StreamResponse:
    """Send a request through the guard. Raises `ApiError`."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app[SERVES_PAGE] = True
    request = make_mocked_request("GET", "/health", CIMultiDict(headers), app=app)
    return await guard(Access("127.0.0.1", TOKEN))(request, handler)


@pytest.mark.parametrize(
    "headers",
    [
        [(BEARER, f"Bearer {TOKEN}")],
        [(BEARER, f"bearer {TOKEN}")],
        [("x-api-key", TOKEN)],
        [("X-Api-Key", TOKEN)],
        [("x-api-key", TOKEN), (BEARER, "Bearer other")],
        [("x-api-key", "other"), (BEARER, f"Bearer {TOKEN}")],
    ],
)
async def test_either_header_may_have_the_token(headers: list[tuple[str, str]]) -> None:
    assert (await ask(*headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", "other")],
        [("x-api-key", f"Bearer {TOKEN}")],
        [("x-api-key", f"{TOKEN}é")],
        [("x-api-key", TOKEN), ("x-api-key", TOKEN)],
        [("x-api-key", TOKEN), ("x-api-key", "other")],
        [(BEARER, TOKEN)],
        [(BEARER, f"Basic {TOKEN}")],
        [(BEARER, f"Bearer {TOKEN}"), (BEARER, f"Bearer {TOKEN}")],
    ],
)
async def test_any_other_header_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ApiError) as error:
        await ask(*headers)
    assert (error.value.status, error.value.body["code"]) == (401, "invalid_api_key")
    assert "x-api-key" in error.value.body["message"]
