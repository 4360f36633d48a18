"""The daemon's side of workers: it starts, asks and ends them, and never imports MLX."""
