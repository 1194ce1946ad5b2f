"""The job file: read, check and edit it."""
