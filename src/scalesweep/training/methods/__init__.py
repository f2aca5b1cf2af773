"""The methods by which a trial adapts its model to its data."""
