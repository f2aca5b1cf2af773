"""Commands in files of their own. `cli.py` has the others, and adds these."""
