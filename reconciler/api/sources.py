"""The manifest files: valid, or why not."""

from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many
from reconciler.api.errors import reply
from reconciler.controller import SourceView
from reconciler.core.manifest import Flaw
from reconciler.core.snapshot import ManifestFile

routes = web.RouteTableDef()


@routes.get("/api/v1/sources")
@describe({200: many("sources", "source")})
async def sources(request: web.Request) -> web.Response:
    """Each source with its files."""
    seen = request.app[CONTROLLER].sources()
    return reply({"sources": [_source(name, view) for name, view in seen.items()]})


def _source(name: str, view: SourceView | None) -> dict[str, Any]:
    if view is None:
        nothing: dict[str, Any] = {"message": None, "files": [], "not_followed": {}, "held": {}}
        return {"name": name, "readable": None} | nothing
    return {
        "name": name,
        "readable": view.snapshot.unreadable is None,
        "message": view.snapshot.unreadable,
        "files": [_file(file) for file in view.snapshot.files],
        "not_followed": view.flagged,
        "held": view.held,
    }


def _file(file: ManifestFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "valid": file.valid,
        "records": [{"name": d.name, "line": d.line} for d in file.declared],
        "errors": [_flaw(flaw) for flaw in file.flaws],
        "ignored": file.ignored,
    }


def _flaw(flaw: Flaw) -> dict[str, Any]:
    return {
        "line": flaw.position.line,
        "column": flaw.position.column,
        "key": flaw.key,
        "message": flaw.message,
    }
