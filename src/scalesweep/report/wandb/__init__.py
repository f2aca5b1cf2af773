"""Weights & Biases: one run per trial and one for the sweep, made from the record at any time, during the sweep or after it."""
