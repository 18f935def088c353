"""Is the forecast good, and is its stated uncertainty the real one?"""
