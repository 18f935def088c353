"""Sampling-parallel Bayesian neural networks: one run, one answer, on any grid of ranks."""

__version__ = "0.1.0"
