"""Training of one trial: the loop, schedules, metrics and checkpoints. It works without a sweep and without Ray."""
