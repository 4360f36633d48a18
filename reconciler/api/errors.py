"""Error responses in the standard format, `{"error": {type, message, code, param?}}`.

Routes whose clients expect another format use that one; see `core.dialects`.

ApiError          raised by handlers for a request that cannot be understood
LoadError         raised by the controller; its reason maps to a row of ROWS
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from reconciler.api.encode import encode
from reconciler.api.frames import frames
from reconciler.core.dialects import error_form
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.schema import Violation

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ROWS: dict[Reason, tuple[int, str, str]] = {
    Reason.MODEL_NOT_FOUND: (404, "model_not_found", "model_not_found"),
    Reason.MODEL_GATED: (403, "model_gated", "model_gated"),
    Reason.REVISION_NOT_FOUND: (404, "model_not_found", "revision_not_found"),
    Reason.AMBIGUOUS_MODEL: (400, "invalid_request", "ambiguous_model"),
    Reason.INVALID_CHECKPOINT: (400, "invalid_request", "invalid_checkpoint"),
    Reason.ADAPTER_NOT_FOUND: (404, "model_not_found", "adapter_not_found"),
    Reason.INVALID_ADAPTER: (400, "invalid_request", "invalid_adapter"),
    Reason.DRAFT_MODEL_NOT_FOUND: (404, "model_not_found", "draft_model_not_found"),
    Reason.INVALID_DRAFT_MODEL: (400, "invalid_request", "invalid_draft_model"),
    Reason.IMPOSSIBLE_SETTING: (400, "invalid_request", "impossible_setting"),
    Reason.INSUFFICIENT_MEMORY: (503, "insufficient_memory", "insufficient_memory"),
    Reason.LOAD_FAILED: (500, "model_load_failed", "model_load_failed"),
    Reason.SETTING_MISMATCH: (500, "model_load_failed", "setting_mismatch"),
    Reason.WORKER_DIED: (500, "model_load_failed", "worker_died"),
    Reason.WORKER_KILLED: (500, "model_load_failed", "worker_killed"),
    Reason.WORKER_HUNG: (500, "model_load_failed", "worker_hung"),
    Reason.GENERATION_DIED: (500, "model_load_failed", "generation_died"),
    Reason.DOWNLOADING: (503, "unavailable", "model_downloading"),
    Reason.OFFLINE: (503, "unavailable", "offline"),
    Reason.DOWNLOAD_FAILED: (502, "download_failed", "download_failed"),
    Reason.HASH_MISMATCH: (502, "download_failed", "hash_mismatch"),
    Reason.INSUFFICIENT_DISK_SPACE: (507, "download_failed", "insufficient_disk_space"),
    Reason.UNKNOWN_JOB: (404, "invalid_request", "job_not_found"),
    Reason.ENGINE_UNAVAILABLE: (503, "engine_unavailable", "engine_unavailable"),
    Reason.MODEL_IN_USE: (409, "conflict", "model_in_use"),
    Reason.NOT_REMOVABLE: (409, "conflict", "not_removable"),
    Reason.MANAGED_BY_MANIFEST: (409, "conflict", "managed_by_manifest"),
    Reason.NOT_LOADED: (404, "model_not_found", "model_not_loaded"),
    Reason.NOT_READY: (503, "unavailable", "model_loading"),
    Reason.UNKNOWN_INSTANCE: (404, "model_not_found", "model_not_found"),
    Reason.NOT_SELECTED: (409, "conflict", "not_selected"),
    Reason.UNKNOWN_SOURCE: (404, "invalid_request", "source_not_found"),
    Reason.NOTHING_HELD: (409, "conflict", "nothing_held"),
    Reason.REMOVED: (409, "conflict", "removed"),
    Reason.SUSPENDED: (409, "conflict", "suspended"),
    Reason.STOPPING: (503, "unavailable", "stopping"),
    Reason.SUSPECTED_HOST_CRASH: (409, "conflict", "suspected_host_crash"),
    Reason.STATE_UNWRITABLE: (507, "unavailable", "state_unwritable"),
    Reason.INTERNAL_ERROR: (500, "internal_error", "internal_error"),
}
"""HTTP status, type and code of each reason."""


ANTHROPIC_VERSION = "anthropic-version"
"""Header that Anthropic's clients send with every request."""

_UNAVAILABLE = web.HTTPServiceUnavailable.status_code


MAX_MESSAGE = 2000
"""Maximum characters of an error's message: quoted parts of a request may be a megabyte long."""

MAX_PARAM = 200
"""Maximum characters of the key that an error refers to."""


class ApiError(Exception):
    """A request that cannot be understood or served."""

    def __init__(
        self, status: int, type_: str, message: str, code: str, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"type": type_, "message": _clipped(message, MAX_MESSAGE), "code": code}
        if param:
            self.body["param"] = _clipped(param, MAX_PARAM)


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def of_problem(problem: Problem) -> ApiError:
    """Convert a problem reported by the controller."""
    status, type_, code = ROWS[problem.reason]
    return ApiError(status, type_, problem.message, code, problem.param)


def problem_json(problem: Problem) -> dict[str, str]:
    """Serialize a problem as part of a response."""
    return {"code": ROWS[problem.reason][2], "message": problem.message}


def of_mistake(mistake: Violation) -> ApiError:
    """Convert a schema violation in a body."""
    return ApiError(400, "invalid_request", mistake.message, mistake.code, mistake.param)


def reply(value: Any, status: int = 200) -> web.Response:
    """Make a JSON response from a value of dataclasses and plain types."""
    # An unavailable resource may be available soon; clients obey Retry-After.
    headers = {"Retry-After": "1"} if status == _UNAVAILABLE else None
    body = encode(value)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert every exception of a handler into an error response."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001  unexpected errors are logged
        failure = of_exception(request, error)
    return refused(request, failure)


def refused(request: web.BaseRequest, failure: ApiError) -> web.Response:
    """Make an error response in the format that clients of the route expect."""
    form = error_form(request.path, anthropic=ANTHROPIC_VERSION in request.headers)
    return reply(form(failure.body, failure.status), failure.status)


def of_exception(request: web.Request, error: Exception) -> ApiError:
    """Convert an exception of a handler; log it if it is unexpected."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LoadError):
        return of_problem(error.problem)
    if isinstance(error, web.HTTPException):
        return of_http(request, error)
    path = request.path[:MAX_PARAM]
    log.error("request failed unexpectedly", path=path, trace=frames(error))
    message = "internal error; the daemon's log has the details"
    return ApiError(500, "internal_error", message, "internal_error")


def of_http(request: web.BaseRequest, error: web.HTTPException) -> ApiError:
    """Convert one of aiohttp's own errors: unknown route, wrong method, body too large."""
    if error.status == web.HTTPNotFound.status_code:
        message = f"there is no route {request.method} {request.path}"
        return ApiError(error.status, "invalid_request", message, "route_not_found")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.path} does not support {request.method}; it supports {allowed}"
        return ApiError(error.status, "invalid_request", message, "method_not_allowed")
    if isinstance(error, web.HTTPExpectationFailed):
        message = "the header Expect must be 100-continue"
        return ApiError(error.status, "invalid_request", message, "invalid_request")
    return ApiError(error.status, "invalid_request", error.reason, "invalid_request")
