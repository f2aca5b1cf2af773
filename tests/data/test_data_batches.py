"""The batch stream: a function of the seed and the step alone."""

import numpy as np
import pytest

from scalesweep.data.batches import BatchPlan, eval_order, micro_batches, shard, steps_for_tokens


def test_every_epoch_sees_every_example_once_in_a_fresh_order():
    plan = BatchPlan(n_examples=103, batch_size=10, seed=4)
    assert plan.steps_per_epoch == 11
    epochs = [np.concatenate([plan.batch(11 * epoch + step) for step in range(11)]) for epoch in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(103))
    assert not np.array_equal(epochs[0], epochs[1])
    assert plan.batch(10).size == 3
    assert [plan.epoch(step) for step in (0, 10, 11, 32)] == [0, 0, 1, 2]
    assert not np.array_equal(BatchPlan(103, 10, 5).batch(0), plan.batch(0))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_and_micro_batches_lose_nothing(world):
    batch = BatchPlan(40, 5, 1).batch(7)
    pieces = [piece for rank in range(world) for piece in micro_batches(shard(batch, rank, world), 2)]
    assert all(0 < piece.size <= 2 for piece in pieces)
    assert sorted(np.concatenate(pieces)) == sorted(batch)


def test_evaluation_goes_from_long_to_short():
    lengths = np.array([3, 9, 1, 9, 4], dtype=np.int32)
    assert eval_order(lengths).tolist() == [1, 3, 4, 0, 2]


def test_steps_for_tokens_is_the_first_step_that_reaches_them():
    plan = BatchPlan(23, 4, 2)
    lengths = np.random.default_rng(0).integers(1, 30, size=23).astype(np.int32)
    seen = np.cumsum([lengths[plan.batch(step)].sum() for step in range(40)])
    for wanted in [1, 2, 57, *seen[[0, 5, 6, 30]], *(seen[[0, 5, 6, 30]] + 1), lengths.sum() * 3]:
        assert steps_for_tokens(plan, lengths, int(wanted)) == np.argmax(seen >= wanted) + 1
    assert steps_for_tokens(plan, lengths, 0) == 0


def test_a_plan_needs_examples():
    with pytest.raises(ValueError, match="at least one"):
        BatchPlan(0, 4, 0)
