"""Downloads from the hub, by LM Studio's routes."""

from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many, ref
from reconciler.api.errors import of_problem, problem_json, reply
from reconciler.core.errors import Problem, Reason
from reconciler.core.records import ModelRef
from reconciler.models.download import Job

routes = web.RouteTableDef()


@routes.post("/api/v1/models/download")
@describe({200: ref("download")}, body="download-request")
async def download(request: web.Request) -> web.Response:
    """Download a model from the hub; responds once the hub has listed the files."""
    body = await read(request, "download-request")
    wanted = ModelRef(body["model"], body.get("revision"))
    pulled = await request.app[CONTROLLER].pull(wanted)
    if pulled.job is None or pulled.job.status == "already_downloaded":
        message = {"message": pulled.message} if pulled.message is not None else {}
        return reply({"status": "already_downloaded"} | message)
    return reply(_job_json(pulled.job))


@routes.get("/api/v1/models/download")
@describe({200: many("downloads", "download")})
async def downloads(request: web.Request) -> web.Response:
    """List downloads in progress and the most recently ended ones, oldest first."""
    return reply(
        {"downloads": [_job_json(job) for job in request.app[CONTROLLER].downloads.jobs()]}
    )


@routes.delete("/api/v1/models/download/{job_id}")
@describe({200: ref("download")})
async def cancel(request: web.Request) -> web.Response:
    """Cancel a download; its partial files are kept, and the next download resumes from them."""
    job = _job(request)
    await request.app[CONTROLLER].downloads.cancel(job)
    return reply(_job_json(job))


@routes.get("/api/v1/models/download/status/{job_id}")
@describe({200: ref("download")})
async def status(request: web.Request) -> web.Response:
    """Progress of a download."""
    return reply(_job_json(_job(request)))


def _job(request: web.Request) -> Job:
    id_ = request.match_info["job_id"]
    job = request.app[CONTROLLER].downloads.job(id_)
    if job is None:
        raise of_problem(Problem(Reason.UNKNOWN_JOB, f"there is no download {id_}"))
    return job


def _job_json(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "model": job.ref.model,
        "status": job.status,
        "total_size_bytes": job.total,
        "started_at": job.started_at,
        "downloaded_bytes": job.downloaded,
        "bytes_per_second": job.bytes_per_second,
        "estimated_completion": job.estimated_completion,
        "completed_at": job.completed_at,
        "error": problem_json(job.problem) if job.problem is not None else None,
    }
