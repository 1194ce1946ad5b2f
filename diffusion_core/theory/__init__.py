"""Noise, prediction targets and guidance as equations, each with its source."""
