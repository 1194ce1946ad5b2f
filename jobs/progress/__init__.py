"""A run's events, their totals, and the displays that show them."""
