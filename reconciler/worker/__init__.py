"""The worker process: the only importer of MLX. It holds one checkpoint's weights once."""
