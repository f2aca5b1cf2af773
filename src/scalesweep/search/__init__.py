"""Deciding: what to try next (Optuna) and who may go on (ASHA). Knows no Ray, no clock and no file."""
