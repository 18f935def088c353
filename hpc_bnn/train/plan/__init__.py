"""What a run will take, before it runs: memory traced without a machine, grids timed."""
