"""The sampler: schedulers, prompt embeddings, guidance, denoising and decoding."""
