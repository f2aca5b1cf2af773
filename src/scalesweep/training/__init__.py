"""Training one trial: the loop, schedules, metrics, checkpoints, and the worker processes. Works without a sweep."""
