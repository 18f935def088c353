"""Training: step, loop, checkpoints and logs."""
