"""Other servers for MLX models, measured beside reconciler: `python -m benchmarks --peers`."""
