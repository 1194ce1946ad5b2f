"""Joining or starting Ray, and what each node can do."""
