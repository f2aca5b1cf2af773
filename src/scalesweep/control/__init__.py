"""Decisions of the search carried out: queue, budgets, life cycle of trials. No Ray, no clock, no file."""
