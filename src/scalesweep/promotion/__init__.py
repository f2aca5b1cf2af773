"""Promotes a trial to a final run on the full data: train, test once, export, verify."""
