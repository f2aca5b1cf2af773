"""Training of one trial: the loop, schedules, metrics, checkpoints and worker processes. It works without a sweep."""
