"""The ways to sample faster that `model.speed` offers, one file each."""
