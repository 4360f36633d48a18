"""Sources of manifests, with the errors in their files."""

from dataclasses import asdict
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many, ref
from reconciler.api.errors import reply
from reconciler.api.pieces import each, encoded
from reconciler.controller import Controller, RecordView, SourceSync
from reconciler.core.errors import Reason
from reconciler.core.manifest import Diagnostic
from reconciler.core.snapshot import ManifestFile

routes = web.RouteTableDef()


@routes.get("/api/v1/sources")
@describe({200: many("sources", "source")})
async def sources(request: web.Request) -> web.Response:
    """List the sources with their files."""
    controller = request.app[CONTROLLER]
    return reply({"sources": [await _source(feed, controller) for feed in controller.sources]})


@routes.post("/api/v1/sources/{name:.+}/sync")
@describe({200: ref("source")})
async def sync(request: web.Request) -> web.Response:
    """Sync a source now; responds when the desired state was updated from it."""
    feed = _named(request)
    await feed.sync()
    return reply(await _source(feed, request.app[CONTROLLER]))


@routes.post("/api/v1/sources/{name:.+}/confirm")
@describe({200: ref("source")})
async def confirm(request: web.Request) -> web.Response:
    """Apply changes that are held for confirmation because of how much they would unload."""
    feed = _named(request)
    feed.confirm()
    return reply(await _source(feed, request.app[CONTROLLER]))


@routes.post("/api/v1/sources/{name:.+}/suspend")
@describe({200: ref("source")})
async def suspend(request: web.Request) -> web.Response:
    """Suspend a source: do not apply its changes until it is resumed."""
    feed = _named(request)
    feed.suspend()
    return reply(await _source(feed, request.app[CONTROLLER]))


@routes.post("/api/v1/sources/{name:.+}/resume")
@describe({200: ref("source")})
async def resume(request: web.Request) -> web.Response:
    """Resume a suspended source; responds when the desired state was updated from it."""
    feed = _named(request)
    await feed.resume()
    return reply(await _source(feed, request.app[CONTROLLER]))


def _named(request: web.Request) -> SourceSync:
    """Source that a path names. Raises `LoadError`."""
    return request.app[CONTROLLER].source(request.match_info["name"])


async def _source(feed: SourceSync, controller: Controller) -> dict[str, Any]:
    view, held, suspended = feed.view, feed.guarded, feed.suspended
    snapshot = view.snapshot if view is not None else None
    commit = snapshot.commit if snapshot is not None else None
    drifts = await each(controller.each_answer(), lambda a: _drift(a, feed.name))
    return {
        "name": feed.name,
        "readable": snapshot.unreadable is None if snapshot is not None else None,
        "message": snapshot.problem if snapshot is not None else None,
        "files": await encoded(snapshot.files, _file) if snapshot is not None else [],
        "not_followed": view.flagged if view is not None else {},
        "held": view.held if view is not None else {},
        "unconfirmed": sorted(view.unconfirmed) if view is not None else [],
        "not_selected": view.not_selected if view is not None else {},
        "suspended": suspended,
        "drift": [name for name in drifts if name is not None],
        "commit": asdict(commit) | {"held": held.commit.applied if held and held.commit else None}
        if commit is not None
        else None,
    }


def _drift(answer: RecordView, owner: str) -> str | None:
    """Name of a record of that owner if it differs from its declaration; idle records do not."""
    ready = answer.status.condition("Ready")
    idle = ready is not None and ready.reason == Reason.IDLE
    as_declared = answer.status.ready or answer.record.spec.suspend or idle
    return answer.record.name if answer.record.owner == owner and not as_declared else None


def _file(file: ManifestFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "valid": file.valid,
        "records": [{"name": d.name, "line": d.line} for d in file.declared],
        "errors": [_flaw(flaw) for flaw in file.flaws],
        "ignored": file.ignored,
    }


def _flaw(flaw: Diagnostic) -> dict[str, Any]:
    return {
        "line": flaw.position.line,
        "column": flaw.position.column,
        "key": flaw.key,
        "message": flaw.message,
    }
