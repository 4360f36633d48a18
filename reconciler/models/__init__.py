"""Models on disk: resolve an identifier to a checkpoint, and read facts from its files."""
