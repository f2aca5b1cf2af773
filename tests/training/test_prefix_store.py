"""The prefix store: reads return the written bytes even if processes die, and the disk budget holds."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalesweep.training import prefix_store
from scalesweep.training.prefix_store import CacheBudget, PrefixStore

LENGTHS = np.array([3, 1, 0, 7, 5, 2, 12, 4], dtype=np.int32)
ALL = np.arange(len(LENGTHS))
PER_TOKEN = 64
SPAWN = multiprocessing.get_context("spawn")
MIB = 1024**2


@pytest.fixture(autouse=True)
def room_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate free disk space, because these tests concern the budget, not the machine's disk."""
    monkeypatch.setattr(prefix_store, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(prefix_store, "LEAST_FREE_SHARE", 0.0)


def rows(lengths: np.ndarray = LENGTHS, per_token: int = PER_TOKEN, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (int(length), per_token), dtype=np.uint8) for length in lengths]


def opened(root: Path, key: str = "a", budget: int | None = None) -> PrefixStore:
    return PrefixStore.open(CacheBudget(root, budget), key, LENGTHS, PER_TOKEN)


def assert_rows(values: np.ndarray, expected: list[np.ndarray]) -> None:
    for value, row in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value[: len(row)], row)
        assert not value[len(row) :].any()


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[Any]:
    child = SPAWN.Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


# ---- rows ----------------------------------------------------------------------------------------------------------------


def test_rows_come_back_ragged_in_any_order_padded_with_zeros(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert store.write(ALL, rows())
        order = np.array([6, 2, 0, 3, 0])
        values, present = store.read(order)
        assert values.shape == (5, 12, PER_TOKEN)
        assert values.dtype == np.uint8
        assert present.all()
        assert_rows(values, [rows()[i] for i in order])
        wide, _ = store.read(np.array([1, 4]), width=20)
        assert wide.shape == (2, 20, PER_TOKEN)
        assert_rows(wide, [rows()[1], rows()[4]])
        none, present = store.read(np.array([], dtype=np.int64))
        assert none.shape == (0, 0, PER_TOKEN)
        assert present.shape == (0,)


def test_absent_rows_are_told_and_zero(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert not store.has(ALL).any()
        assert store.write(np.array([1, 3, 2]), [rows()[i] for i in (1, 3, 2)])
        expected = [False, True, True, True, False, False, False, False]
        assert store.has(ALL).tolist() == expected
        values, present = store.read(ALL)
        assert present.tolist() == expected
        assert values.shape[1] == 12
        assert not values[~present].any()


def test_rows_survive_reopening_and_keys_are_apart(tmp_path: Path) -> None:
    with opened(tmp_path, "a") as store:
        store.write(ALL, rows())
    with opened(tmp_path, "b") as other:
        assert not other.has(ALL).any()
        other.write(ALL, rows(seed=1))
    for key, seed in (("a", 0), ("b", 1)):
        with opened(tmp_path, key) as store:
            values, present = store.read(ALL)
            assert present.all()
            assert_rows(values, rows(seed=seed))


def test_a_row_that_is_there_is_never_written_again(tmp_path: Path) -> None:
    """Two cards compute nearly equal bytes; readers that have checked the first must not see them mixed."""
    with opened(tmp_path) as first, opened(tmp_path) as second:
        assert first.write(ALL, rows())
        assert second.write(ALL, rows(seed=1))
        assert_rows(second.read(ALL)[0], rows())


def test_a_row_that_another_is_writing_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, row = os.pwrite, np.array([3])
    with opened(tmp_path) as first, opened(tmp_path) as second:

        def half(fd: int, data: Any, offset: int) -> int:
            written = real(fd, memoryview(data)[: len(data) // 2], offset)
            monkeypatch.setattr(os, "pwrite", real)
            assert second.write(row, [rows(seed=1)[3]])
            assert not second.read(row)[1].any()  # half written is absent
            return written

        monkeypatch.setattr(os, "pwrite", half)
        assert first.write(row, [rows()[3]])
        for store in (first, second):
            assert_rows(store.read(row)[0], [rows()[3]])


def test_what_does_not_fit_the_layout_is_a_mistake(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for wrong in (np.zeros((2, PER_TOKEN), np.uint8), np.zeros((3, PER_TOKEN), np.int8), np.zeros((3, 1), np.uint8)):
            with pytest.raises(ValueError, match="row 0 is"):
                store.write(np.array([0]), [wrong])
        with pytest.raises(ValueError, match="don't fit a width of 2"):
            store.read(np.array([0]), width=2)
        assert store.total_bytes == LENGTHS.sum() * PER_TOKEN


def test_no_examples_at_all(tmp_path: Path) -> None:
    with PrefixStore.open(CacheBudget(tmp_path), "a", np.array([], dtype=np.int32), PER_TOKEN) as store:
        nothing = np.array([], dtype=np.int64)
        assert store.write(nothing, [])
        assert store.read(nothing)[0].shape == (0, 0, PER_TOKEN)
        assert store.total_bytes == 0


def test_a_store_takes_little_disk_before_it_is_filled(tmp_path: Path) -> None:
    lengths = np.full(1000, 100)
    budget = CacheBudget(tmp_path)
    with PrefixStore.open(budget, "a", lengths, 10_000) as store:
        assert store.total_bytes == 10**9
        assert (tmp_path / "prefix-a" / "values.bin").stat().st_size == 10**9
        assert budget.used() < MIB
        store.write(np.array([999]), [np.ones((100, 10_000), np.uint8)])
        assert MIB / 2 < budget.used() < 3 * MIB
        assert store.read(np.array([999]))[1].all()
        assert not store.read(np.array([0, 500]))[1].any()


# ---- several processes ---------------------------------------------------------------------------------------------------

MANY = np.random.default_rng(5).integers(0, 30, 200)


def write_and_read(root: Path, seed: int, rounds: int) -> None:
    """Write rows that another process also writes, with other bytes, and read them. Each row comes from one of the two."""
    ours, theirs = rows(MANY, seed=seed), rows(MANY, seed=1 - seed)
    order = np.random.default_rng(seed)
    seen: dict[int, bytes] = {}
    for turn in range(rounds):
        with PrefixStore.open(CacheBudget(root), f"round-{turn}", MANY, PER_TOKEN) as store:
            seen.clear()
            for some in np.array_split(order.permutation(len(MANY)), 20):
                assert store.write(some, [ours[i] for i in some])
                picked = order.integers(0, len(MANY), 16)
                for index, value, there in zip(picked.tolist(), *store.read(picked), strict=True):
                    if there:
                        found = value[: MANY[index]].tobytes()
                        assert found in (ours[index].tobytes(), theirs[index].tobytes())
                        assert seen.setdefault(index, found) == found


def test_two_processes_write_and_read_the_same_rows(tmp_path: Path) -> None:
    with process(write_and_read, tmp_path, 0, 30) as one, process(write_and_read, tmp_path, 1, 30) as two:
        one.join(20)
        two.join(20)
        assert (one.exitcode, two.exitcode) == (0, 0)
    assert len(list(tmp_path.glob("prefix-*"))) == 30
    with PrefixStore.open(CacheBudget(tmp_path), "round-29", MANY, PER_TOKEN) as store:
        assert store.read(np.arange(len(MANY)))[1].all()


BIG = np.full(64, 100)
BIG_PER_TOKEN = 4096


def write_for_ever(root: Path) -> None:
    values = rows(BIG, BIG_PER_TOKEN)
    turn = 0
    while True:
        with PrefixStore.open(CacheBudget(root, 30 * MIB), f"turn-{turn % 4}", BIG, BIG_PER_TOKEN) as store:
            for index in range(len(BIG)):
                store.write(np.array([index]), [values[index]])
        shutil.rmtree(root / f"prefix-turn-{(turn + 2) % 4}", ignore_errors=True)
        turn += 1


def test_a_killed_writer_leaves_no_half_row(tmp_path: Path) -> None:
    expected = rows(BIG, BIG_PER_TOKEN)
    found = 0
    for attempt in range(4):
        with process(write_for_ever, tmp_path) as child:
            deadline = time.monotonic() + 20
            while len(list(tmp_path.glob("prefix-turn-*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.011 * attempt)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        for folder in tmp_path.glob("prefix-turn-*"):
            key = folder.name.removeprefix("prefix-")
            with PrefixStore.open(CacheBudget(tmp_path), key, BIG, BIG_PER_TOKEN) as store:
                claimed = np.flatnonzero(store.has(np.arange(len(BIG))))
                values, present = store.read(claimed)
                assert present.all()
                assert_rows(values, [expected[i] for i in claimed])
                found += len(claimed)
                assert store.write(np.arange(len(BIG)), expected)  # the remains of the dead process do not interfere
                assert store.read(np.arange(len(BIG)))[1].all()
            shutil.rmtree(folder)
    assert found


def test_left_overs_of_the_dead_are_deleted_when_met(tmp_path: Path) -> None:
    for name in (".evicted-prefix-x-1a2b", ".unfinished-prefix-y-3c4d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "values.bin").write_bytes(bytes(MIB))
    (tmp_path / "tokens-z").mkdir()
    assert CacheBudget(tmp_path).used() >= 2 * MIB
    opened(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"prefix-a", "tokens-z", ".prefix-stores.lock"}


# ---- damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values.bin", "index.bin"])
def test_a_corrupt_byte_makes_its_row_absent_until_it_is_written_again(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as store:
        store.write(ALL, rows())
    path = tmp_path / "prefix-a" / name
    content = bytearray(path.read_bytes())
    at = 5 * PER_TOKEN + 9 if name == "values.bin" else 3 * 4  # within row 3
    content[at] ^= 1
    path.write_bytes(content)
    with opened(tmp_path) as store:
        values, present = store.read(ALL)
        assert present.tolist() == [True] * 3 + [False] + [True] * 4
        assert not values[3].any()
        assert not store.has(np.array([3]))[0]  # removed from the index for all processes
        with opened(tmp_path) as other:
            assert not other.has(np.array([3]))[0]
        assert store.write(np.array([3]), [rows()[3]])
        assert_rows(store.read(ALL)[0], rows())
        assert store.read(ALL)[1].all()


def test_a_corrupt_row_can_be_written_without_reading_it_first(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.write(ALL, rows())
    with (tmp_path / "prefix-a" / "values.bin").open("r+b") as file:
        file.write(b"\x00\x01\x02\x03")
    with opened(tmp_path) as store:
        assert store.write(ALL, rows())
        assert_rows(store.read(ALL)[0], rows())


def spoil_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"format": 0}')


def spoil_json(folder: Path) -> None:
    (folder / "meta.json").write_text("{")


def lose_lock(folder: Path) -> None:
    (folder / "lock").unlink()


def cut_values(folder: Path) -> None:
    os.truncate(folder / "values.bin", 5)


def lose_index(folder: Path) -> None:
    (folder / "index.bin").unlink()


@pytest.mark.parametrize("damage", [spoil_meta, spoil_json, lose_lock, cut_values, lose_index])
def test_a_damaged_folder_is_replaced(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with opened(tmp_path) as store:
        store.write(ALL, rows())
    damage(tmp_path / "prefix-a")
    with opened(tmp_path) as store:
        assert not store.has(ALL).any()
        assert store.write(ALL, rows(seed=1))
        assert_rows(store.read(ALL)[0], rows(seed=1))


def test_other_lengths_under_one_key_replace_the_store_unless_it_is_open(tmp_path: Path) -> None:
    other_lengths = LENGTHS[::-1].copy()  # as many tokens
    budget = CacheBudget(tmp_path)
    with opened(tmp_path) as store:
        store.write(ALL, rows())
        with PrefixStore.open(budget, "a", other_lengths, PER_TOKEN) as other:
            assert not other.has(ALL).any()
            assert not other.write(ALL, rows(other_lengths))
            assert not other.read(ALL)[1].any()
        assert store.read(ALL)[1].all()
    with PrefixStore.open(budget, "a", other_lengths, PER_TOKEN) as other:
        assert other.write(ALL, rows(other_lengths))
        assert_rows(other.read(ALL)[0], rows(other_lengths))


def test_a_file_cut_short_under_an_open_store_is_no_crash(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.write(ALL, rows())
        os.truncate(tmp_path / "prefix-a" / "values.bin", 4 * PER_TOKEN)
        assert store.read(ALL)[1].tolist() == [True, True, True] + [False] * 5


@pytest.mark.parametrize("root", [Path("/proc/nowhere/cache"), Path("/dev/null/cache")])
def test_a_root_that_cannot_be_written_gives_a_store_that_is_always_empty(root: Path) -> None:
    budget = CacheBudget(root)
    with PrefixStore.open(budget, "a", LENGTHS, PER_TOKEN) as store:
        assert not store.has(ALL).any()
        assert not store.write(ALL, rows())
        values, present = store.read(ALL, width=13)
        assert values.shape == (8, 13, PER_TOKEN)
        assert not values.any()
        assert not present.any()
    assert budget.used() == 0


# ---- the budget ----------------------------------------------------------------------------------------------------------

ROW_BYTES = int(BIG[0]) * BIG_PER_TOKEN  # 400 KiB
STORE_BYTES = len(BIG) * ROW_BYTES  # 25 MiB


def filled(root: Path, key: str, n_rows: int, budget: int | None = None) -> PrefixStore:
    store = PrefixStore.open(CacheBudget(root, budget), key, BIG, BIG_PER_TOKEN)
    assert store.write(np.arange(n_rows), [np.full((BIG[0], BIG_PER_TOKEN), 7, np.uint8)] * n_rows)
    return store


def keys(root: Path) -> set[str]:
    return {path.name.removeprefix("prefix-") for path in root.glob("prefix-*")}


def hold_open(root: Path, key: str, ready: Any, done: Any) -> None:
    with PrefixStore.open(CacheBudget(root), key, BIG, BIG_PER_TOKEN) as store:
        ready.set()
        done.wait(30)
        assert store.read(np.arange(10))[1].all()


def test_the_longest_unused_goes_first_and_never_one_that_is_open_elsewhere(tmp_path: Path) -> None:
    for age, key in enumerate(["oldest", "older", "old", "new"]):
        filled(tmp_path, key, 10).close()
        stamp = time.time() - 1000 + 100 * age
        os.utime(tmp_path / f"prefix-{key}" / "lock", (stamp, stamp))
    ready, done = SPAWN.Event(), SPAWN.Event()
    with process(hold_open, tmp_path, "older", ready, done) as holder:
        assert ready.wait(20)
        budget = CacheBudget(tmp_path, 45 * ROW_BYTES)
        assert budget.make_room(4 * ROW_BYTES)
        assert keys(tmp_path) == {"oldest", "older", "old", "new"}
        assert budget.make_room(6 * ROW_BYTES)
        assert keys(tmp_path) == {"older", "old", "new"}
        opened(tmp_path, "unrelated").close()
        assert budget.make_room(20 * ROW_BYTES)
        assert keys(tmp_path) == {"older", "new", "unrelated"}
        # More than possible: no store is evicted in vain.
        assert not budget.make_room(40 * ROW_BYTES)
        assert keys(tmp_path) == {"older", "new", "unrelated"}
        assert budget.fits(45 * ROW_BYTES)
        assert not budget.fits(46 * ROW_BYTES)
        assert not list(tmp_path.glob(".evicted-*"))
        done.set()
        holder.join(20)
        assert holder.exitcode == 0
    assert budget.make_room(45 * ROW_BYTES)
    assert keys(tmp_path) == set()
    assert budget.used() == 0


def test_opening_and_reading_count_as_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_use() -> float:
        return (tmp_path / "prefix-a" / "lock").stat().st_mtime

    opened(tmp_path).close()
    os.utime(tmp_path / "prefix-a" / "lock", (1, 1))
    with opened(tmp_path) as store:
        assert last_use() > 1
        os.utime(tmp_path / "prefix-a" / "lock", (1, 1))
        store.read(ALL)
        assert last_use() == 1  # once a minute is enough
        later = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: later)
        store.read(ALL)
        assert last_use() > 1


def open_and_evict(root: Path, number: int, seconds: float) -> None:
    """Fill one of three stores while other processes do, and evict closed stores, like a store at its budget."""
    expected = [np.full((BIG[0], BIG_PER_TOKEN), 7, np.uint8)] * 2
    end, turn = time.monotonic() + seconds, number
    budget = CacheBudget(root, 6 * ROW_BYTES)
    while time.monotonic() < end:
        with PrefixStore.open(budget, f"key-{turn % 3}", BIG, BIG_PER_TOKEN) as store:
            folder = root / f"prefix-key-{turn % 3}"
            assert (folder / "lock").exists()
            mine = np.array([number, number + 2])
            if store.write(mine, expected):
                values, _ = store.read(mine)
                assert ((values == 7).all((1, 2)) | (values == 0).all((1, 2))).all()
            budget.make_room(6 * ROW_BYTES)
            assert (folder / "lock").exists()  # this process's open store was not evicted
        turn += 1


def test_opening_while_others_evict_gives_a_store_that_stays(tmp_path: Path) -> None:
    with process(open_and_evict, tmp_path, 0, 2.0) as one, process(open_and_evict, tmp_path, 1, 2.0) as two:
        one.join(20)
        two.join(20)
        assert (one.exitcode, two.exitcode) == (0, 0)


def test_the_budget_holds_in_allocated_bytes(tmp_path: Path) -> None:
    limit = 40 * ROW_BYTES
    budget = CacheBudget(tmp_path, limit)
    slack = 64 * 1024  # indexes and folders
    filled(tmp_path, "a", 30, limit).close()
    with filled(tmp_path, "b", 20, limit):
        assert keys(tmp_path) == {"b"}  # a went for it
        with PrefixStore.open(budget, "c", BIG, BIG_PER_TOKEN) as store:
            row = [np.ones((BIG[0], BIG_PER_TOKEN), np.uint8)]
            written = [store.write(np.array([index]), row) for index in range(30)]
            assert 15 <= sum(written) <= 20
            assert written == sorted(written, reverse=True)
            assert store.has(np.arange(30)).tolist() == written
            assert store.read(np.arange(30))[1].tolist() == written
            assert 35 * ROW_BYTES <= budget.used() <= limit + slack
    on_disk = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
    assert budget.used() == on_disk


def test_a_free_disk_share_is_the_default_and_a_floor_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    budget = CacheBudget(tmp_path)
    assert budget.fits(int(free * prefix_store.DISK_SHARE * 0.9))
    assert not budget.fits(int(free * prefix_store.DISK_SHARE * 1.1))
    roomy = CacheBudget(tmp_path / "not" / "made", 2 * free)
    assert roomy.fits(int(free * 0.9))
    monkeypatch.setattr(prefix_store, "LEAST_FREE_BYTES", free // 2)
    assert not roomy.fits(int(free * 0.9))
    assert not roomy.make_room(int(free * 0.9))
    assert roomy.make_room(int(free * 0.1))


# ---- a full disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_ends_the_writing_not_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = os.pwrite
    left = [500]  # three rows with their sums, and half of the fourth

    def pwrite(fd: int, data: Any, offset: int) -> int:
        size = min(memoryview(data).nbytes, left[0])
        if not size:
            raise OSError(code, os.strerror(code))
        left[0] -= size
        return real(fd, memoryview(data)[:size], offset)  # the remaining disk is filled first, as on Linux

    with opened(tmp_path) as store:
        monkeypatch.setattr(os, "pwrite", pwrite)
        assert not store.write(ALL, rows())
        monkeypatch.setattr(os, "pwrite", real)
        assert not store.write(ALL, rows())  # this store has given up
        there = [True, True, True, False, False, False, False, False]
        assert store.has(ALL).tolist() == there
        assert store.read(ALL)[1].tolist() == there
    with opened(tmp_path) as store:
        assert store.write(ALL, rows())
        assert_rows(store.read(ALL)[0], rows())


def write_past_a_limit(root: Path) -> None:
    store = filled(root, "a", 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * ROW_BYTES + 5000, resource.RLIM_INFINITY))
    value = np.full((BIG[0], BIG_PER_TOKEN), 7, np.uint8)
    assert not store.write(np.arange(10, 40), [value] * 30)
    assert store.read(np.arange(40))[1].sum() == 20
    store.close()
    assert not PrefixStore.open(CacheBudget(root), "b", BIG, BIG_PER_TOKEN).write(np.array([0]), [value])


def test_the_system_refuses_to_write(tmp_path: Path) -> None:
    """A limit on file sizes, which the system enforces like a full disk, in the middle of a row."""
    with process(write_past_a_limit, tmp_path) as child:
        child.join(20)
        assert child.exitcode == 0
    with filled(tmp_path, "a", 40) as store:
        assert (store.read(np.arange(40))[0] == 7).all()
    assert keys(tmp_path) == {"a"}
    assert not list(tmp_path.glob(".unfinished-*"))


# ---- files held ----------------------------------------------------------------------------------------------------------


def test_closing_lets_go_of_everything(tmp_path: Path) -> None:
    def held() -> int:
        gc.collect()  # what earlier tests left is not this one's
        return len(list(Path("/proc/self/fd").iterdir()))

    maps = Path("/proc/self/maps")
    opened(tmp_path).close()
    before = held()
    for turn in range(50):
        store = opened(tmp_path)
        store.write(ALL, rows())
        store.read(ALL)
        store.close()
        store.close()
        assert not store.has(ALL).any()
        assert not store.read(ALL)[1].any()
        assert not store.write(ALL, rows())
        if turn % 10 == 0:
            cut_values(tmp_path / "prefix-a")  # replaced the next time
    lose_index(tmp_path / "prefix-a")
    with opened(tmp_path) as store, PrefixStore.open(CacheBudget(tmp_path), "a", LENGTHS + 1, PER_TOKEN):
        store.write(ALL, rows())
    assert held() == before
    assert str(tmp_path / "prefix-a") not in maps.read_text()  # stores of other tests may be open in this process
