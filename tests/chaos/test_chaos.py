"""One sweep on a cluster of four machines, and a hand that kills, from a seed, whatever it finds there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from intact import check, events_of
from nodes import NOTICE, Cluster
from sessions import Session

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("SCALESWEEP_CHAOS_SEED", "1"))
KILLS = int(os.environ.get("SCALESWEEP_CHAOS_KILLS", "20"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=3) as made:
        yield made


def one_of(rng: random.Random, session: Session, word: str) -> psutil.Process:
    return rng.choice(session.wait(lambda: session.cluster.processes(word)))


def kill_rank(rng: random.Random, session: Session) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        one_of(rng, session, "ray::Rank").kill()


def kill_trial(rng: random.Random, session: Session) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        one_of(rng, session, "ray::ResourceTrainable").kill()


def kill_node(rng: random.Random, session: Session) -> None:
    index = rng.choice([index for index in session.cluster.nodes if index])
    session.cluster.kill_node(index)
    time.sleep(rng.uniform(0, 4))
    session.cluster.start_node(index, wait=False)


def kill_driver(rng: random.Random, session: Session) -> None:  # noqa: ARG001
    session.kill_driver()
    session.resume()


def stop_rank(rng: random.Random, session: Session) -> None:
    """It hangs for a while, as when its machine swaps."""
    process = one_of(rng, session, "ray::Rank")
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(1, 3))
        process.send_signal(signal.SIGCONT)


HANDS = [kill_rank, kill_trial, kill_node, kill_driver, stop_rank]


def test_kills_at_random_points_lose_nothing(cluster: Cluster, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    trials = max(6, KILLS)
    # Each trial reports at least twice; every kind of kill comes, in an order and at moments that the seed says.
    moments = sorted(rng.sample(range(1, 2 * trials - 2), KILLS))
    hands = [HANDS[number % len(HANDS)] for number in range(KILLS)]
    rng.shuffle(hands)
    session = Session(cluster, tmp_path, budget={"run_cap": trials})
    for moment, hand in zip(moments, hands, strict=True):
        session.wait_for_reports(moment)
        time.sleep(rng.uniform(0, 0.5))
        print(f"{session.count('report'):3} reports, {session.count('end'):3} ends: {hand.__name__}", flush=True)
        hand(rng, session)
    session.finish()
    assert session.count("trial") == trials
    assert 1 < session.count("session") <= 1 + hands.count(kill_driver), "a driver may die before it has begun"
    check(session.run_dir)


def test_the_head_is_lost_with_the_driver_and_the_sweep_goes_on_with_a_new_one(cluster: Cluster, tmp_path: Path) -> None:
    session = Session(cluster, tmp_path, budget={"run_cap": 4})
    session.wait_for_reports(3)
    cluster.kill_node(0)
    session.kill_driver()  # it ran there
    cluster.restart_head()
    session.resume()
    session.finish()
    assert session.count("session") == 2
    check(session.run_dir)


def test_a_spot_node_is_left_before_it_is_taken_away(cluster: Cluster, tmp_path: Path) -> None:
    if not cluster.apart:
        pytest.skip("needs nodes with folders of their own")
    early = {"type": "asha", "time_attr": "steps", "grace_period": 88, "max_t": 96, "reduction_factor": 3}
    session = Session(
        cluster,
        tmp_path,
        budget={"run_cap": 4},
        early_terminate=early,  # twelve reports each: at most of them a trial goes on
        resources={"max_failures": 100, "spot_notice": NOTICE},
    )
    session.wait_for_reports(3)

    def on_node(index: int, word: str) -> list[psutil.Process]:
        return [process for process in cluster.nodes[index].processes() if word in " ".join(process.cmdline())]

    index = max(cluster.nodes)
    session.wait(lambda: on_node(index, "ray::Rank"))
    with_trials = [node for node in cluster.nodes if on_node(node, "ray::ResourceTrainable")]
    assert with_trials == [0], "a trial's own process lives where the driver does"
    cluster.announce_end(index)
    session.wait(lambda: not on_node(index, "ray::Rank"))
    cluster.kill_node(index)
    session.finish()
    cluster.start_node(index)

    events = events_of(session.run_dir)
    note = f"node {cluster.nodes[index].address} will be taken away; its trials move to other nodes at their next report"
    (told,) = [place for place, event in enumerate(events) if event["event"] == "note" and event["text"] == note]
    moved = [event["trial"] for event in events if event["event"] == "yielded" and event["to"] is None]
    if not moved:  # its trial was at its end
        ended = events[told : next(place for place, event in enumerate(events) if place > told and event["event"] == "end")]
        trial = events[told + len(ended)]["trial"]
        assert len([event for event in ended if event["event"] == "report" and event["trial"] == trial]) <= 1
        return
    (name,) = moved
    own = [event for event in events if event.get("trial") == name]
    place = next(place for place, event in enumerate(own) if event["event"] == "yielded" and event["to"] is None)
    before, start, after = own[place - 1], own[place + 1], own[place + 2]
    assert (before["event"], start["event"]) == ("report", "start")
    assert (after["event"], after["fidelity"], after["first_step_at"]) == ("repeated", before["fidelity"], 0), "trained twice"
    check(session.run_dir)
