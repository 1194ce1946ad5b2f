"""Look inside sampling: record the steps of one image, and compare samplers."""
