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


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("n_examples", "batch_size"), [(23, 4), (24, 4), (3, 4), (700, 2)])
def test_steps_for_tokens_is_the_first_step_that_reaches_them(n_examples, batch_size, by_length):
    lengths = np.random.default_rng(0).integers(1, 30, size=n_examples).astype(np.int32)
    plan = BatchPlan(n_examples, batch_size, 2, lengths if by_length else None)
    seen = np.cumsum([lengths[plan.batch(step)].sum() for step in range(5 * plan.steps_per_epoch + 31)])
    for wanted in [1, 2, 57, *seen[[0, 5, 6, 30]], *(seen[[0, 5, 6, 30]] + 1), lengths.sum() * 3]:
        assert steps_for_tokens(plan, lengths, int(wanted)) == np.argmax(seen >= wanted) + 1
    assert steps_for_tokens(plan, lengths, 0) == 0


def test_a_plan_needs_examples_and_their_lengths():
    with pytest.raises(ValueError, match="at least 1"):
        BatchPlan(0, 4, 0)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        BatchPlan(4, 4, 0, np.ones(3))


# ---- examples of like length share a batch -----------------------------------------------------------------------------------


def real_looking(n_examples):
    """Tokens of short texts: a long tail, cut at 128."""
    return np.random.default_rng(1).lognormal(3.3, 0.5, n_examples).astype(np.int32).clip(2, 128)


def batches_of(plan, epoch=0):
    return [plan.batch(epoch * plan.steps_per_epoch + step) for step in range(plan.steps_per_epoch)]


@pytest.mark.parametrize(("n_examples", "batch_size"), [(1003, 10), (1000, 10), (7, 10), (10, 10), (49, 1), (12749, 32)])
def test_bucketed_epochs_see_every_example_once(n_examples, batch_size):
    plan = BatchPlan(n_examples, batch_size, 4, real_looking(n_examples))
    for epoch in range(2):
        batches = batches_of(plan, epoch)
        assert sorted(np.concatenate(batches)) == list(range(n_examples))
        assert {len(batch) for batch in batches[:-1]} <= {batch_size}
        assert len(batches[-1]) == (n_examples % batch_size or batch_size)


def test_bucketed_batches_depend_on_the_seed_and_the_epoch_alone():
    lengths = real_looking(4000)
    first = [np.array(batch) for batch in batches_of(BatchPlan(4000, 32, 4, lengths), 3)]
    other = BatchPlan(4000, 32, 4, lengths.astype(np.int64))
    backwards = [other.batch(3 * other.steps_per_epoch + step) for step in reversed(range(other.steps_per_epoch))]
    assert all(np.array_equal(one, same) for one, same in zip(first, reversed(backwards), strict=True))
    for changed in (BatchPlan(4000, 32, 5, lengths), BatchPlan(4000, 32, 4, lengths[::-1].copy())):
        assert not all(np.array_equal(one, same) for one, same in zip(first, batches_of(changed, 3), strict=True))
    assert not np.array_equal(first[0], other.batch(0))


def padded(batches, lengths):
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def test_batches_of_like_length_need_little_padding():
    lengths = real_looking(12749)
    tokens = int(lengths.sum())
    plain = padded(batches_of(BatchPlan(12749, 32, 0)), lengths) - tokens
    bucketed = padded(batches_of(BatchPlan(12749, 32, 0, lengths)), lengths) - tokens
    assert bucketed < plain / 10


def test_long_and_short_batches_are_mixed_over_the_epoch():
    lengths = real_looking(12749)
    means = np.array([lengths[batch].mean() for batch in batches_of(BatchPlan(12749, 32, 0, lengths))])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.15
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.15


def test_a_short_last_batch_is_as_random_as_any_other_example():
    lengths = real_looking(1003)
    plan = BatchPlan(1003, 20, 0, lengths)
    last = np.concatenate([batches_of(plan, epoch)[-1] for epoch in range(100)])
    assert lengths[last].mean() == pytest.approx(lengths.mean(), rel=0.15)


@pytest.mark.parametrize("world", [2, 4])
def test_workers_get_like_shares_of_a_bucketed_batch(world):
    lengths = real_looking(12749)
    batches = batches_of(BatchPlan(12749, 32, 0, lengths))
    work = np.array([[lengths[shard(batch, rank, world)].sum() for rank in range(world)] for batch in batches])
    spread = np.array([np.ptp(lengths[batch]) for batch in batches])
    assert (np.ptp(work, axis=1) <= spread)[:-1].all()  # a batch is sorted, so the shares lie between each other
    assert work.sum(axis=0).max() / work.sum(axis=0).min() < 1.01


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_earlier_examples_make_up_their_share_of_every_epoch_and_take_turns(share: float) -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 300)
    plan = BatchPlan(100, 8, 0, lengths, earlier=200, share=share)
    epochs = [
        np.concatenate([plan.batch(step) for step in range(e * plan.steps_per_epoch, (e + 1) * plan.steps_per_epoch)])
        for e in range(8)
    ]
    for epoch in epochs:
        assert sorted(epoch[epoch < 100]) == list(range(100))  # every new example once
        assert (epoch >= 100).mean() == pytest.approx(share, abs=0.005)
    turns = np.bincount(np.concatenate(epochs)[np.concatenate(epochs) >= 100], minlength=300)[100:]
    assert turns.max() - turns.min() <= 1
    tokens, steps = 0, steps_for_tokens(plan, lengths, 5000)
    for step in range(steps):
        assert tokens < 5000
        tokens += lengths[plan.batch(step)].sum()
    assert tokens >= 5000


def test_without_a_share_earlier_examples_change_nothing() -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 300)
    plain, beside = BatchPlan(100, 8, 3, lengths[:100]), BatchPlan(100, 8, 3, lengths, earlier=200, share=0.0)
    assert all((plain.batch(step) == beside.batch(step)).all() for step in range(40))
