"""What a step asks of a GPU, without one: how many kernels, how many calls of the flash kernel, and no wait for a result.

``python -m tests.engine.model.test_launches`` measures MOST anew.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, ModernBertConfig

from bench.toys import tiny
from engine.data.collate import Layout
from engine.model import attention, key_value_cache, layout, target_logits
from tests.toys import language
from tests.toys.architectures import LLAMA, MODERN
from tests.toys.launches import Launches, as_on_a_gpu, launches

TOKENS = (tiny.TokenTask, tiny.token_rows)
CAUSAL = (lambda: language.make_task("clm"), lambda n: language.make_rows("clm", n))
MODELS = {
    "DistilBERT": (2, *TOKENS, tiny.distilbert),
    "BERT": (2, *TOKENS, tiny.bert),
    "ModernBERT": (3, *TOKENS, lambda: AutoModelForSequenceClassification.from_config(ModernBertConfig(**MODERN))),
    "BERT, masked": (2, lambda: language.make_task("mlm"), lambda n: language.make_rows("mlm", n), language.masked_bert),
    "GPT-2": (2, *CAUSAL, lambda: language.gpt2(0.1)),
    "Llama, grouped heads": (3, *CAUSAL, lambda: LlamaForCausalLM(LLAMA)),
}  # layers, task, rows, model
MOST = {
    "DistilBERT": (234, 479),
    "BERT": (249, 510),
    "ModernBERT": (333, 661),
    "BERT, masked": (223, 459),
    "GPT-2": (216, 431),
    "Llama, grouped heads": (498, 997),
}  # kernels of a step, with one micro-batch and with two


def measure(name, accumulation):
    _, make_task, make_rows, make_model = MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
        as_on_a_gpu(patch)
        return launches(make_task(), make_rows(24), make_model(), accumulation)


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_packed_step(name, accumulation):
    """Nothing is read from the device, or ``Launches`` raises; the flash kernel once a layer and direction."""
    counts = measure(name, accumulation)
    calls = MODELS[name][0] * accumulation
    assert (counts["_flash_attention_forward"], counts["_flash_attention_backward"]) == (calls, calls)
    assert counts["_fused_adamw_"] == 2, "parameters with weight decay, and those without"
    assert counts.total() <= MOST[name][accumulation - 1], f"{counts.total()} kernels: {counts.most_common()}"


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.tolist, bool, torch.nonzero, lambda t: t[t > 0]])
def test_a_read_from_the_device_is_found(read):
    """The control: whatever makes the host wait raises."""
    with FakeTensorMode(), Launches():
        value = torch.ones(1) * 2
        with pytest.raises((AssertionError, RuntimeError)):
            read(value)


def test_zeros_filled_by_indexing_are_found():
    """The control: ``t[0]`` in place of ``t.squeeze(0)`` costs two kernels in the backward pass."""
    found = []
    for pick in (lambda t: t.squeeze(0), lambda t: t[0]):
        with FakeTensorMode(), Launches() as step:
            pick(torch.ones(1, 3, requires_grad=True)).square().sum().backward()
        found.append(step.counts.total())
    assert found[1] == found[0] + 2


def flash_forward(q, k, v, offsets, _, longest, *rest, scale, window_size_left, **more):
    """The kernel's outputs, from the loop over the segments."""
    causal = rest[2]
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    out = attention._by_segment(q, k, v, offsets.tolist(), scale, causal, window_size_left)
    seed = torch.empty(2, dtype=torch.uint64, device="meta")
    return out, q.new_empty(q.shape[1], len(q), dtype=torch.float32), seed, seed.new_empty(()), q.new_empty(0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in MODELS],  # test_layout and test_target_logits have small ones
)
def test_compiled_it_is_one_graph_for_all_batches(name, monkeypatch):
    """No break, and no graph of its own for another number of rows or tokens; evaluation has one for each layout.

    The flash kernel's operator is traced as it is; where the graph is run, a loop and zeros for gradients stand in for it.
    """
    _, make_task, make_rows, make_model = MODELS[name]
    graphs = []
    as_on_a_gpu(monkeypatch)
    task, rows, model = make_task(), make_rows(48), make_model()
    packed = layout.pack(model, task.level)
    target_logits.enable(model, task.level)
    key_value_cache.keep_for_generate(model)
    model.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward, dynamic=True, fullgraph=True)
    at = [0, 5, 12, 16, 24, 30, 39]
    batches = [[task.prepare(rows[i], torch.Generator()) for i in range(start, stop)] for start, stop in pairwise(at)]
    with torch.library._scoped_library("aten", "IMPL") as kernels, torch.autocast("cpu", torch.bfloat16):
        kernels.impl("_flash_attention_forward", flash_forward, "CPU")
        kernels.impl("_flash_attention_backward", lambda g, q, k, v, *a, **o: tuple(map(torch.zeros_like, (q, k, v))), "CPU")
        for some in batches:
            batch = task.collate(some, packed)
            task.loss(task.forward(model, batch), batch).backward()
        assert len(graphs) == 1
        model.eval()
        with torch.inference_mode():
            for where in (packed, Layout()):
                for some in batches:
                    batch = task.collate(some, where)
                    outputs = task.forward(model, batch)
                    assert torch.isfinite(task.loss(outputs, batch))
    torch._dynamo.reset()
    assert len(graphs) == 3, "of the evaluation one for each layout"


if __name__ == "__main__":
    for name in MODELS:
        print(f'    "{name}": {tuple(measure(name, n).total() for n in (1, 2))},')
