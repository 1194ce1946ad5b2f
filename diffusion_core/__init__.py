"""What a diffusion model is: noise, schedulers, conditioning, sampling, training.

Knows tensors and diffusers. Knows nothing of manifests, storage, Ray or the command line.
"""
