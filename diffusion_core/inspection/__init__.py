"""Looking at sampling: the trajectory of one image, and samplers compared."""
