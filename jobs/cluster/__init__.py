"""Connecting to a Ray cluster, or starting a local one, and checking its nodes."""
