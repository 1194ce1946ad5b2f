"""The page on which images are picked, and what it shows."""
