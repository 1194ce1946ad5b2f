"""What one can do with a run: make, plan, preview, check, repair and reproduce it."""
