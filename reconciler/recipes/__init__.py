"""Recipes for third-party programs with this daemon and one model, as plain data."""
