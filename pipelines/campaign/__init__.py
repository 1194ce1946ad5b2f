"""Campaigns: manifests that are drawn from templates and from lists of words."""
