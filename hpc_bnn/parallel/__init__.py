"""The grid of ranks and everything that communicates."""
