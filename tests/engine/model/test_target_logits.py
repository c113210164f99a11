"""Logits for some tokens are those rows of all logits, for every kind of model, and so are the gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, DebertaV2Config, ModernBertConfig
from transformers.modeling_outputs import MaskedLMOutput

from engine.model import packing, target_logits
from tests.toys.architectures import DISTIL, ENCODER, GPT2, LLAMA, MODERN, strong

MASKED, CAUSAL = AutoModelForMaskedLM, AutoModelForCausalLM
MODELS = {
    "Bert": (BertConfig(**ENCODER), MASKED),
    "DistilBert": (DISTIL, MASKED),
    "ModernBert": (ModernBertConfig(**MODERN), MASKED),
    "DebertaV2, which takes no other arguments": (DebertaV2Config(**ENCODER), MASKED),
    "GPT2": (GPT2, CAUSAL),
    "Llama": (LLAMA, CAUSAL),
}
IDS = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([1, 5, 8, 9, 20, 26])


class Plain(nn.Module):
    """A module of one's own, without a body that could be told from its head."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(200, 8), nn.Linear(8, 200)

    def forward(self, input_ids):
        return MaskedLMOutput(logits=self.head(self.embed(input_ids)))


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "Plain":
        return Plain()
    config, kind = MODELS[name]
    return strong(kind.from_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", [*MODELS, "Plain"])
def test_the_logits_of_some_tokens(name):
    model = make(name)
    wanted = model(input_ids=IDS).logits.flatten(0, 1)[INDEX]
    wanted.square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    target_logits.enable(model, "token")
    found = model(input_ids=IDS, target_index=INDEX).logits
    assert found.shape == (1, 6, 200)
    torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    for n, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[n], rtol=1e-4, atol=1e-4 * float(gradients[n].abs().max()))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == gradients.keys()


def test_the_head_works_on_them_only():
    model = make("Bert")
    target_logits.enable(model, "token")
    shapes = []
    model.cls.predictions.decoder.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    model(input_ids=IDS, target_index=INDEX)
    model(input_ids=IDS)
    assert shapes == [(1, 6, 200), (3, 9, 200)]


def test_a_packed_batch():
    model = make("Llama")
    target_logits.enable(model, "token")
    packing.enable(model, "token")
    inputs = {"input_ids": IDS[:1], "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), "max_length_q": 5,
              "cu_seq_lens_q": torch.tensor([0, 4, 9], dtype=torch.int32)}  # fmt: skip
    whole = model(**inputs).logits[0]
    torch.testing.assert_close(model(**inputs, target_index=torch.tensor([2, 7])).logits[0], whole[[2, 7]])


def test_no_target_at_all():
    """A batch whose rows hold nothing to predict: no logits, a loss of 0, gradients of 0."""
    model = make("Bert")
    target_logits.enable(model, "token")
    logits = model(input_ids=IDS, target_index=torch.empty(0, dtype=torch.int64)).logits
    assert logits.shape == (1, 0, 200)
    loss = nn.functional.cross_entropy(logits[0], torch.empty(0, dtype=torch.int64), reduction="sum")
    loss.backward()
    assert loss.item() == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_failed_call_leaves_nothing_behind():
    model = make("GPT2")
    target_logits.enable(model, "token")
    with pytest.raises(ValueError, match="both input_ids and inputs_embeds"):
        model(input_ids=IDS, target_index=INDEX, inputs_embeds=3)
    assert model(input_ids=IDS).logits.shape == (3, 9, 200)


def test_a_sequence_head_is_left_alone():
    model = make("Bert")
    target_logits.enable(model, "sequence")
    assert not model._forward_pre_hooks


def test_compiled_it_stays_one_graph():
    """The hooks are traced with the model: no break, and no graph of its own for each number of targets."""
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    model = make("Bert")
    target_logits.enable(model, "token")
    expected = [model(input_ids=IDS, target_index=INDEX[:n]).logits for n in (2, 4, 6)]
    model.compile(backend=count, dynamic=True, fullgraph=True)
    for n, wanted in zip((2, 4, 6), expected, strict=True):
        torch.testing.assert_close(model(input_ids=IDS, target_index=INDEX[:n]).logits, wanted)
    torch._dynamo.reset()
    assert len(graphs) == 1
