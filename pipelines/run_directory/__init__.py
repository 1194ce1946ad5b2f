"""The run directory: run.json, lease, commits, reading a run back, verifying it."""
