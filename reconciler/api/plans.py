"""Previews of actions and of the memory that they need, without any change."""

from dataclasses import asdict
from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import of_mistake, problem_json, reply
from reconciler.api.pieces import encoded
from reconciler.controller import Change, DryRun, PlanRequest, SourceError
from reconciler.core.plan import Action
from reconciler.core.schema import contradictions, load_request, load_spec, spec_json
from reconciler.core.snapshot import Commit, Declared, ManifestFile, Snapshot

routes = web.RouteTableDef()


@routes.get("/api/v1/plan")
@describe({200: ref("plan")})
async def plan(request: web.Request) -> web.Response:
    """Preview the actions that the reconcile loop would take now."""
    return reply(await _dry_run_json(await request.app[CONTROLLER].dry_run(PlanRequest())))


@routes.post("/api/v1/plan")
@describe({200: ref("plan")}, body="plan-request")
async def plan_specs(request: web.Request) -> web.Response:
    """Preview the actions if these records were put and deleted."""
    body = await read(request, "plan-request")
    asked = PlanRequest(
        [(one["name"], load_spec(one["spec"])) for one in body.get("apply", [])],
        list(dict.fromkeys(body.get("delete", []))),
        _snapshot(body["source"]) if "source" in body else None,
        [(one["name"], load_spec(one["spec"])) for one in body.get("declare", [])],
    )
    return reply(await _dry_run_json(await request.app[CONTROLLER].dry_run(asked)))


@routes.post("/api/v1/models/estimate")
@describe({200: ref("estimate")}, body="load-request")
async def estimate(request: web.Request) -> web.Response:
    """Estimate the memory that a load would need, and whether it fits."""
    body = await read(request, "load-request")
    for mistake in contradictions(body):
        raise of_mistake(mistake)
    asked = load_request(body)
    estimate = await request.app[CONTROLLER].estimate(asked)
    return reply(
        {
            "model": asked.model,
            "checkpoint": estimate.checkpoint.path,
            "config": estimate.resolved.config,
            "warnings": estimate.resolved.warnings,
            "weights_bytes": estimate.checkpoint.weights_bytes,
            "adapter_bytes": estimate.resolved.need.adapter,
            "draft_bytes": estimate.resolved.need.draft,
            "kv_cache_bytes": estimate.resolved.need.kv,
            "prefill_bytes": estimate.resolved.need.working,
            "process_bytes": estimate.resolved.need.process,
            "shapes_seen": estimate.checkpoint.shapes is not None,
            "needed_bytes": estimate.needed,
            "free_bytes": estimate.free,
            "budget_bytes": estimate.budget,
            "fits": estimate.fits,
        }
    )


def _snapshot(source: Any) -> Snapshot:
    """The source as the request describes it."""
    files: dict[str, list[Declared]] = {}
    for one in source["records"]:
        declared = Declared(one["name"], load_spec(one["spec"]), one["line"])
        files.setdefault(one["file"], []).append(declared)
    read = tuple(ManifestFile(path, tuple(declared)) for path, declared in files.items())
    return Snapshot(source["name"], read, commit=Commit(None))


async def _dry_run_json(dry_run: DryRun) -> dict[str, Any]:
    actions = await encoded(dry_run.running, lambda action: _action(action, running=True))
    actions += await encoded(dry_run.actions, lambda action: _action(action, running=False))
    changes = await encoded(dry_run.changes, _change)
    refused = [{"name": name, **problem_json(p)} for name, p in dry_run.refused.items()]
    return {
        "actions": actions,
        "changes": changes,
        "refused": refused,
        "not_selected": dry_run.not_selected,
        "source_errors": await encoded(dry_run.source_errors, lambda one: _source_error(*one)),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "before": spec_json(change.before) if change.before else None,
        "after": spec_json(change.after) if change.after else None,
    }


def _source_error(source: str, error: SourceError) -> dict[str, Any]:
    keys = ("file", "line", "column", "key")
    place = asdict(error.place) if error.place is not None else dict.fromkeys(keys)
    return {"source": source, "message": error.message} | place


def _action(action: Action, *, running: bool) -> dict[str, Any]:
    resolved = action.resolved
    return {
        "name": action.name,
        "action": action.kind,
        "reason": action.reason,
        "message": action.message,
        "problem": problem_json(action.problem) if action.problem else None,
        "config": resolved.config if resolved else None,
        "memory_bytes": resolved.need.own if resolved else None,
        "running": running,
    }
