"""Joining a cluster: addresses that can't be used are told at once."""

from __future__ import annotations

import socket

import pytest

from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.workers.session import ray_cluster


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "surrounding", "kind", "words"),
    [
        ("ray://head:10001", None, UserError, "is a client address"),
        ("http://head:8265", None, UserError, "is a client address"),
        ("head", None, UserError, "not HOST:PORT"),
        ("127.0.0.1:CLOSED", None, OutsideError, "no Ray cluster answers at 127.0.0.1:"),
        ("127.0.0.1:CLOSED", "head:6379", OutsideError, "no Ray cluster answers at 127.0.0.1:"),
        ("auto", "127.0.0.1:CLOSED", OutsideError, "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("auto", "ray://head:10001", UserError, "RAY_ADDRESS=ray://head:10001 is a client address"),
        ("auto", "head", UserError, "RAY_ADDRESS=head is not HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(
    address: str, surrounding: str | None, kind: type[ScalesweepError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(closed_port())
    if surrounding is not None:
        monkeypatch.setenv("RAY_ADDRESS", surrounding.replace("CLOSED", closed))
    with pytest.raises(kind, match=words) as caught, ray_cluster(address.replace("CLOSED", closed)):
        pass
    assert caught.value.hint
    assert ("RAY_ADDRESS" in caught.value.hint) == (address == "auto")
