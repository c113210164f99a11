"""The plan is a pure function of (seed, epoch): every row once per epoch, and resuming at any step is the plan's tail.

The order is compared with torch.randperm itself, the micro-batches with a plain walk through it, written here again.
"""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from bench.toys import tiny
from engine.clock import Clock
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.plan import BUCKET_BATCHES, Plan, Position, cut, eval_batches
from engine.distributed.world import World
from engine.loader import Data

CPU = torch.device("cpu")


def random_plans(number: int, seed: int, *, bucketed: bool | None = None) -> list[Plan]:
    """Small plans of every shape: batches larger than the data, one row, accumulation past the epoch's end, max_steps."""
    generator = np.random.default_rng(seed)
    plans = []
    for _ in range(number):
        n, batch, accumulation, epochs = (int(generator.integers(1, top)) for top in (40, 12, 6, 4))
        with_lengths = bool(generator.integers(2)) if bucketed is None else bucketed
        plans.append(
            Plan(
                n, batch, accumulation, epochs,
                max_steps=int(generator.integers(1, 30)) if generator.integers(2) else None,
                seed=int(generator.integers(2**32)),
                lengths=generator.integers(1, 50, n),
                bucketed=with_lengths,
                tokens_per_batch=int(generator.integers(1, 200)) if generator.integers(3) == 0 else None,
                packed=bool(generator.integers(2)),
            )
        )  # fmt: skip
    return plans


def walk(plan: Plan) -> list[list[list[tuple[int, int]]]]:
    """The keys of each step, by a loop that knows neither positions nor slices: the reference for the plan's arithmetic."""
    steps: list[list[list[tuple[int, int]]]] = []
    epoch = 0
    while True:
        pending: list[list[tuple[int, int]]] = []
        for rows in plan.batches(epoch):
            pending.append([(epoch, int(row)) for row in rows])
            if len(pending) == plan.accumulation_steps:
                steps.append(pending)
                pending = []
        if pending:
            steps.append(pending)
        epoch += 1
        if plan.max_steps is None and epoch == plan.epochs:
            return steps
        if plan.max_steps is not None and len(steps) >= plan.max_steps:
            return steps[: plan.max_steps]


def grouped(plan: Plan, start: int = 0) -> list[list[list[tuple[int, int]]]]:
    """The plan's micro-batches, cut into steps by its positions, as data.py does; nothing may be left over."""
    keys = plan.micro_batches(start)
    steps = [list(islice(keys, at.num_micro_batches)) for at in plan.positions(start)]
    assert next(keys, None) is None, "more micro-batches than the positions say"
    return steps


@pytest.mark.parametrize("seed", [0, 7, 42, 2**32 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_is_randperm_of_seed_plus_epoch(seed, epoch):
    expected = torch.randperm(31, generator=torch.Generator().manual_seed(seed + epoch))
    assert Plan(31, 4, seed=seed).order(epoch).tolist() == expected.tolist()
    assert np.concatenate(Plan(31, 4, seed=seed).batches(epoch)).tolist() == expected.tolist()


def test_another_seed_or_epoch_is_another_order():
    orders = [Plan(31, 4, seed=seed).order(epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 1), (5, 0))]
    assert len({tuple(order) for order in orders}) == 4
    assert list(range(31)) not in orders


def test_the_order_leaves_the_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    plan = Plan(100, 8, lengths=np.arange(1, 101), bucketed=True)
    list(plan.micro_batches())
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_every_row_is_seen_once_per_epoch():
    for plan in random_plans(60, seed=1):
        for epoch in range(2):
            rows = np.concatenate(plan.batches(epoch))
            assert sorted(rows.tolist()) == list(range(plan.num_examples)), plan
            assert len(plan.batches(epoch)) == plan.num_batches(epoch), plan


def test_only_the_last_batch_of_a_random_order_is_short():
    for plan in random_plans(40, seed=2, bucketed=False):
        if plan.tokens_per_batch:
            continue
        sizes = [len(rows) for rows in plan.batches(0)]
        assert set(sizes[:-1]) <= {plan.batch_size}
        assert 1 <= sizes[-1] <= plan.batch_size


def test_the_whole_run_equals_a_plain_walk_through_its_epochs():
    for plan in random_plans(80, seed=3):
        expected = walk(plan)
        assert grouped(plan) == expected, plan
        assert plan.num_steps == len(expected), plan


def test_positions_tell_the_truth_about_their_micro_batches():
    for plan in random_plans(80, seed=4):
        positions, steps = list(plan.positions()), walk(plan)
        assert [at.step for at in positions] == list(range(1, plan.num_steps + 1))
        assert [at.num_micro_batches for at in positions] == [len(step) for step in steps]
        assert [[key[0] for keys in step for key in keys] for step in steps] == [
            [at.epoch] * sum(map(len, step)) for at, step in zip(positions, steps, strict=True)
        ], "a step stays within its epoch"
        assert [at.is_last for at in positions] == [False] * (len(positions) - 1) + [True]
        for at, after in pairwise(positions):
            assert at.is_epoch_end == (after.epoch != at.epoch)
            assert after.epochs_done > at.epochs_done
        ends = [at.epochs_done for at in positions if at.is_epoch_end]
        assert ends == [float(epoch) for epoch in range(1, len(ends) + 1)]


def test_resuming_after_any_step_is_exactly_the_tail():
    for plan in random_plans(60, seed=5):
        positions, steps = list(plan.positions()), grouped(plan)
        for done in range(plan.num_steps + 1):
            assert list(plan.positions(done)) == positions[done:], (plan, done)
            assert list(plan.micro_batches(done)) == [keys for step in steps[done:] for keys in step], (plan, done)
            assert grouped(plan, done) == steps[done:]


@pytest.mark.parametrize("max_steps", [1, 3, 4, 5, 8, 11, 13])
def test_max_steps_cuts_or_prolongs_the_same_run(max_steps):
    """4 steps an epoch and 2 epochs: inside the first, at its end, inside the second, beyond the last."""
    shape = {"num_examples": 38, "batch_size": 5, "accumulation_steps": 2, "seed": 3}
    longest = grouped(Plan(**shape, epochs=9))
    plan = Plan(**shape, epochs=2, max_steps=max_steps)
    assert plan.steps_in(0) == 4
    assert plan.num_steps == max_steps
    assert grouped(plan) == longest[:max_steps]
    assert list(plan.micro_batches(max_steps)) == []
    assert list(plan.positions(max_steps)) == []


def test_bucketing_pads_far_less_than_the_random_order():
    """4,000 rows of 1 to 200 tokens in batches of 16. Sorted within 800 rows a batch spans some 4 tokens."""
    lengths = np.random.default_rng(0).integers(1, 201, 4000)

    def waste(plan: Plan) -> float:
        executed = sum(len(rows) * int(lengths[rows].max()) for rows in plan.batches(0))
        return 1 - int(lengths.sum()) / executed

    at_random, bucketed = waste(Plan(4000, 16)), waste(Plan(4000, 16, lengths=lengths, bucketed=True))
    assert at_random > 0.4
    assert bucketed < 0.05


def test_bucketing_shuffles_its_batches_and_differs_between_epochs():
    """Sorted batches in a sorted order would train on the longest rows first."""
    lengths = np.random.default_rng(0).integers(1, 201, 500)
    plan = Plan(500, 10, seed=1, lengths=lengths, bucketed=True)
    longest = [int(lengths[rows].max()) for rows in plan.batches(0)]
    assert longest != sorted(longest, reverse=True)
    assert abs(np.corrcoef(longest, np.arange(50))[0, 1]) < 0.5
    members = [{frozenset(rows.tolist()) for rows in plan.batches(epoch)} for epoch in (0, 1)]
    assert len(members[0] & members[1]) < 10, "other rows meet in another epoch"
    assert [b.tolist() for b in plan.batches(0)] == [
        b.tolist() for b in Plan(500, 10, seed=1, lengths=lengths, bucketed=True).batches(0)
    ]


def test_buckets_are_made_within_a_stretch_of_the_random_order():
    """So rows of one length do not always meet: each batch comes from BUCKET_BATCHES batches of the random order."""
    plan = Plan(1000, 4, seed=1, lengths=np.random.default_rng(0).integers(1, 50, 1000), bucketed=True)
    stretch = {row: i // (4 * BUCKET_BATCHES) for i, row in enumerate(plan.order(0).tolist())}
    assert all(len({stretch[row] for row in rows.tolist()}) == 1 for rows in plan.batches(0))


@pytest.mark.parametrize(("batching", "used"), [("auto", False), ("padded", False), ("max_length", False), ("bucketed", True)])
def test_only_bucketed_looks_at_lengths(batching, used):
    plan = Plan.of(TrainConfig(batch_size=3, accumulation_steps=2, epochs=5, seed=9, batching=batching), np.arange(1, 8))
    in_order = Plan(7, 3, 2, 5, seed=9)
    assert plan.bucketed == used
    assert all((a.tolist() == b.tolist()) != used for a, b in zip(plan.batches(0), in_order.batches(0), strict=True))
    assert (plan.num_examples, plan.batch_size, plan.accumulation_steps, plan.epochs, plan.seed) == (7, 3, 2, 5, 9)
    assert Plan.of(TrainConfig(max_steps=4), np.arange(1, 8)).num_steps == 4


@pytest.mark.parametrize("packed", [True, False])
def test_a_token_budget_is_filled_and_not_exceeded(packed):
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    plan = Plan(500, 16, lengths=lengths, tokens_per_batch=128, packed=packed)
    batches = plan.batches(0)
    assert np.concatenate(batches).tolist() == plan.order(0).tolist()

    def cost(rows):
        return lengths[rows].sum() if packed else len(rows) * lengths[rows].max()

    assert all(cost(rows) <= 128 for rows in batches)
    assert all(cost(np.append(a, b[0])) > 128 for a, b in pairwise(batches)), "the next row would not have fitted"


def test_a_row_above_the_budget_gets_a_batch_of_its_own():
    plan = Plan(4, 16, lengths=np.array([5, 900, 5, 5]), tokens_per_batch=20, packed=True)
    sizes = [sorted(plan.lengths[rows].tolist()) for rows in plan.batches(0)]
    assert [900] in sizes and sum(map(len, sizes)) == 4


class Watched:
    """Rows that note when they are read."""

    def __init__(self, rows):
        self.rows, self.lengths, self.read = rows, rows.lengths, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        self.read.append(row)
        return self.rows[row]

    def fingerprint(self):
        return ""


@pytest.mark.parametrize("batching", ["padded", "bucketed"])
def test_planning_reads_no_row_and_resuming_reads_only_the_tail(batching):
    examples = Watched(tiny.token_rows(30))
    config = TrainConfig(batch_size=4, accumulation_steps=3, epochs=2, batching=batching, device="cpu")
    plan = Plan.of(config, examples.lengths)
    keys = list(plan.micro_batches())
    list(plan.positions())
    assert examples.read == []
    data = Data(plan, tiny.TokenTask(), examples, Layout(), config, World(CPU), Clock(CPU))
    batches = [batch for _, micro_batches in data.steps(start=4) for batch in micro_batches]
    skipped = sum(at.num_micro_batches for at in islice(plan.positions(), 4))
    assert [batch.keys for batch in batches] == keys[skipped:]
    assert examples.read == [row for batch in keys[skipped:] for _, row in batch]


def position(step: int, *, end: bool = False, last: bool = False) -> Position:
    return Position(step, 0, 1, 0.5, end, last)


def test_due_every_so_many_steps_or_at_the_epochs_end_and_always_at_the_last():
    assert [step for step in range(1, 10) if position(step).due(3)] == [3, 6, 9]
    assert position(3, end=True).due(0)
    assert not position(3).due(0)
    assert not position(4, end=True).due(3)
    assert position(4, last=True).due(3)
    assert position(4, last=True).due(0)


def test_evaluation_takes_every_row_once_longest_first():
    lengths = np.random.default_rng(0).integers(1, 50, 33)
    batches = eval_batches(lengths, 8)
    rows = [row for batch in batches for _, row in batch]
    assert sorted(rows) == list(range(33))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 1]
    assert (np.diff(lengths[rows]) <= 0).all()
    assert {epoch for batch in batches for epoch, _ in batch} == {0}


def test_cut_loses_nothing():
    assert [piece.tolist() for piece in cut(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert cut(np.arange(0), 3) == []
