"""Training: from a job and captioned images to checkpoints and a model folder in one store.

Runs in one process, or in several with torch.distributed; `jobs.training` starts them on Ray.
"""
