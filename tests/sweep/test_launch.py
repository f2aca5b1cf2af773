"""Joining a cluster: addresses that can't be used are told at once."""

from __future__ import annotations

import socket

import pytest

from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.sweep.launch import ray_cluster


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("ray://head:10001", UserError, "is a client address"),
        ("http://head:8265", UserError, "is a client address"),
        ("head", UserError, "not HOST:PORT"),
        ("127.0.0.1:CLOSED", OutsideError, "no Ray cluster answers"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_at_once(address: str, kind: type[ScalesweepError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught, ray_cluster(address.replace("CLOSED", str(closed_port())), None):
        pass
    assert caught.value.hint
