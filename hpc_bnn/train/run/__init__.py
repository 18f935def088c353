"""A run from its settings to its folder: loop, checkpoints, restarts, log and summary."""
