"""The daemon's side of workers: starts, calls and ends them, and never imports MLX."""
