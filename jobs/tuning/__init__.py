"""Find the fastest way to sample a job on this machine."""
