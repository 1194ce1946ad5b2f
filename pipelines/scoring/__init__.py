"""Scores of finished images: what a gate, a selection and a report judge them by."""
