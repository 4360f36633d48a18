"""The worker process: holds one copy of a checkpoint's weights. Only workers import MLX."""
