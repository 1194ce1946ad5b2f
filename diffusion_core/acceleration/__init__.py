"""What `model.speed` offers, one file an offer."""
