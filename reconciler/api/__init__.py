"""HTTP API: parse requests, await the controller, serialize responses."""
