"""Decisions as pure functions: no I/O, no event loop, no HTTP, no MLX."""
