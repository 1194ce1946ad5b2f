"""The forms in which an export is written."""
