"""Scaling laws fitted to finished runs: points, laws, fits, intervals, comparison of laws, trends of the optimal settings."""
