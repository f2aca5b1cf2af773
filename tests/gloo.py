"""A function on several real processes that form a gloo group, as the workers of a trial do."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from processes import READY

SECONDS = 60.0  # a worker that waits longer for the others has been left by them


def on_workers(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of `function(peers, *arguments)`, by rank. The function is a module's, so that processes find it."""
    port, results = READY.Queue(), READY.Queue()
    workers = [READY.Process(target=_work, args=(rank, world, port, results, function, arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    try:
        found = dict(results.get(timeout=2 * SECONDS) for _ in workers)
    finally:
        for worker in workers:
            worker.join(SECONDS)
            worker.kill()
    failed = [result for result in found.values() if isinstance(result, _Failure)]
    assert not failed, "\n".join(failure.text for failure in failed)
    return [found[rank] for rank in range(world)]


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _work(rank: int, world: int, port: Any, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    from scalesweep.training.peers import Meeting

    torch.set_num_threads(1)
    meeting = Meeting(SECONDS)
    try:
        if rank == 0:
            number = meeting.open("127.0.0.1")
            for _ in range(world - 1):
                port.put(number)
        else:
            number = port.get(timeout=SECONDS)
        peers = meeting.join("test", rank, world, ("127.0.0.1", number))
        results.put((rank, function(peers, *arguments)))
        meeting.leave()
    except Exception:  # noqa: BLE001 - raised again, in the test
        results.put((rank, _Failure(f"rank {rank} of {world}: {traceback.format_exc()}")))
