"""The run directory: its record, lease and commits; reading a run back and verifying it."""
