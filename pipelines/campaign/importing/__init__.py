"""Wildcard folders of SwarmUI and of sd-dynamic-prompts as lists of a campaign."""
