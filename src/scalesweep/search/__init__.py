"""The decisions of a sweep: the next trial (Optuna) and promotion at rungs (ASHA). Without Ray, clock or files."""
