"""Diffusion models: noise, schedulers, conditioning, sampling, acceleration and training."""
