"""Measure speed settings and batch sizes on this machine."""
