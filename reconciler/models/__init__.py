"""Models on disk: from an identifier to a checkpoint, and from its files to facts."""
