"""A trained run asked: validation scores, evaluation, forecasts and their reports."""
