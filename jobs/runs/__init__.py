"""What can be done with a run: plan, preview, make, check, repair and reproduce it."""
