"""The sampler `random`."""

from __future__ import annotations

from scalesweep.search.samplers import BaseSampler


class Sampler(BaseSampler):
    """The study's own draw: every parameter independently of all trials so far."""
