"""The job file: reading, checking and editing it."""
