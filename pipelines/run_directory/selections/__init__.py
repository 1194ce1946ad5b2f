"""Selections: which images of a run were chosen, why, and whether they are still the same."""
