"""Sources of manifests. A source yields snapshots and does not depend on their consumer."""
