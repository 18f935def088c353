"""Fields of the atmosphere: foreign files, the pack that training reads, windows and forecasts."""
