"""Keys of the objects that handlers read from the application."""

from aiohttp import web

from reconciler.controller import Controller

CONTROLLER = web.AppKey("CONTROLLER", Controller)
