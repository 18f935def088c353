"""Time series: CSV files read strictly, cut into windows, split by time."""
