"""Steps that are recorded and replayed are the steps that would have been computed, bit by bit; what cannot be is not.

The recording is played by tests/toys/recorded.py on a CPU; on a GPU ``python -m bench gpu correctness`` compares real ones.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.toys import tiny
from engine.build import build, nested, wants_graphs
from engine.checkpoint.snapshot import model_tensors
from engine.config import TrainConfig
from engine.cuda_graph import GraphedAccumulate
from engine.data.collate import Layout
from engine.distributed.world import World
from engine.errors import UsageError
from engine.loop import train_step
from tests.toys import recorded

SETTINGS = {
    "device": "cpu",
    "precision": "fp32",
    "batching": "max_length",
    "batch_size": 4,
    "max_steps": 9,
    "learning_rate": 1e-3,
}


class OneShape(tiny.TokenTask):
    max_length = 24


class Net(nn.Module):
    """Means of embedded tokens, dropout, a layer; one more that nobody uses. (BERT's padded mask is looked at by the host.)"""

    def __init__(self, dropout):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.dropout = nn.Embedding(100, 16), nn.Dropout(dropout)
        self.layer, self.unused = nn.Linear(16, 3), nn.Linear(2, 2)

    def forward(self, input_ids, attention_mask):
        hidden = self.dropout(self.table(input_ids)) * attention_mask[..., None]
        return SimpleNamespace(logits=self.layer(hidden.sum(1) / attention_mask.sum(1, keepdim=True)))


def run(graphs=None, task=None, dropout=0.1, **settings):
    """The weights, the losses and the state at the end of a run of nine steps."""
    task, rows = task or OneShape(), tiny.token_rows(40)
    setup = build(task, rows, TrainConfig(**(SETTINGS | settings)), Net(dropout))
    if graphs is not None:
        setup.state.execute = nested(setup.state.execute, graphs)
    setup.state.model.train()
    losses = [
        float(train_step(setup.state, task, batches, setup.data.config, setup.world).loss_sum)
        for _, batches in setup.data.steps()
    ]
    return {name: tensor.clone() for name, tensor in model_tensors(setup.state.model).items()}, losses, setup


@pytest.mark.parametrize(("accumulation_steps", "num_replays"), [(1, 8), (3, 23)])
def test_replayed_steps_are_the_same_steps(monkeypatch, accumulation_steps, num_replays):
    made = recorded.install(monkeypatch)
    eager, losses, _ = run(accumulation_steps=accumulation_steps)
    graphed, others, setup = run(GraphedAccumulate(), accumulation_steps=accumulation_steps)
    assert losses == others and all(torch.equal(eager[name], graphed[name]) for name in eager)
    assert len(made) == 1 and made[0].num_replays == num_replays
    assert setup.state.clock.seconds["graph"] > 0


def test_dropout_is_drawn_anew_in_each_replay(monkeypatch):
    recorded.install(monkeypatch)
    task, rows = OneShape(), tiny.token_rows(4)
    setup = build(task, rows, TrainConfig(**(SETTINGS | {"learning_rate": 1e-30})), Net(0.3))
    setup.state.execute = nested(setup.state.execute, GraphedAccumulate())
    setup.state.model.train()
    [(_, batches), *_] = setup.data.steps()
    losses = [float(train_step(setup.state, task, batches, setup.data.config, setup.world).loss_sum) for _ in range(6)]
    assert len(set(losses)) == 6


def test_a_parameter_without_gradient_keeps_none(monkeypatch):
    recorded.install(monkeypatch)
    for graphs in (None, GraphedAccumulate()):
        setup = run(graphs)[2]
        moved = {name for name, parameter in setup.state.model.named_parameters() if setup.state.optimizer.state[parameter]}
        assert moved == {"table.weight", "layer.weight", "layer.bias"}


class ReadsACount(OneShape):
    def loss(self, outputs, batch):
        return super().loss(outputs, batch) * batch.num_items


class Waits(OneShape):
    def loss(self, outputs, batch):
        loss = super().loss(outputs, batch)
        return loss * 2 if loss.item() > 1 else loss


@pytest.mark.parametrize(("kind", "reason"), [(ReadsACount, "the batch's num_items"), (Waits, "stream is capturing")])
def test_what_a_recording_would_freeze_stays_eager(monkeypatch, capsys, kind, reason):
    made = recorded.install(monkeypatch)
    eager, losses, _ = run(task=kind())
    graphed, others, _ = run(GraphedAccumulate(), task=kind())
    assert losses == others and all(torch.equal(eager[name], graphed[name]) for name in eager)
    assert sum(graph.num_replays for graph in made) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "CUDA graphs" in line]
    assert len(notes) == 1 and reason in notes[0]


def test_shapes_that_never_come_again_do_not_fill_the_memory(monkeypatch):
    recorded.install(monkeypatch)
    monkeypatch.setattr("engine.cuda_graph.MOST_SEEN", 3)
    graphs = GraphedAccumulate()
    run(graphs, batching="padded", batch_size=1)
    assert len(graphs.seen) == 3


def test_only_small_packed_batches_on_one_gpu(monkeypatch):
    world = World(torch.device("cuda"))
    packed, few, many = Layout("packed"), [100.0], [10_000.0]
    auto, on, off = (TrainConfig(cuda_graph=choice) for choice in ("auto", "on", "off"))
    assert wants_graphs(auto, packed, world, few) and not wants_graphs(auto, packed, world, many)
    assert wants_graphs(on, packed, world, many) and not wants_graphs(off, packed, world, few)
    large = TrainConfig(tokens_per_batch=100_000)
    assert not wants_graphs(large, packed, world, few) and wants_graphs(TrainConfig(tokens_per_batch=4096), packed, world, many)
    assert not wants_graphs(auto, Layout(), world, few) and not wants_graphs(auto, packed, World(torch.device("cpu")), few)
    for layout, device in ((Layout(), "cuda"), (packed, "cpu")):
        with pytest.raises(UsageError, match="needs a CUDA device, packed batches and one rank"):
            wants_graphs(on, layout, World(torch.device(device)), few)
