"""What handlers find in the application."""

from aiohttp import web

from reconciler.controller import Controller

CONTROLLER = web.AppKey("CONTROLLER", Controller)
