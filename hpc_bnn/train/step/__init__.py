"""One training step on any grid of ranks: its passes, gradients, checks and report."""
