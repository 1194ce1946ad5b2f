"""Training sets made of the images of runs, in the layouts that other tools read."""
