"""Campaigns: axes, word lists and templates that stand for the rows of a manifest."""
