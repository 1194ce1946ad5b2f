"""Sending a job to a cluster through Ray's Jobs API, and following it there."""
