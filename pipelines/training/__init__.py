"""Training: a job and pictures in, checkpoints and a model folder out, all in one store.

Runs whole in one process; `jobs.training` runs it on a cluster.
"""
