"""Where manifests come from. Sources yield snapshots and know nobody."""
