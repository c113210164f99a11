"""Training and evaluation keep no keys and values; generate does, and config.json says what it said."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from tests.toys import language
from tests.toys.architectures import GPT2, LLAMA, strong


def llama():
    return LlamaForCausalLM(copy.deepcopy(LLAMA))  # a test changes the configuration


def prepared(model, batching, task=None, rows=None):
    """The model as training has it, and its first batch."""
    task, rows = task or language.make_task("clm"), rows or language.make_rows("clm")
    config = TrainConfig(batch_size=4, epochs=1, device="cpu", precision="fp32", batching=batching)
    setup = build(task, rows, config, model)
    return setup.state.model, task, next(iter(setup.data.steps()))[1][0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("make", [language.gpt2, llama])
def test_a_language_model_keeps_none(make, batching, training):
    """None in the outputs, and none copied on the way: the same operations as for a model whose configuration says so."""
    counts = []
    for use_cache in (True, False):
        model, task, batch = prepared(make(), batching)
        model.config.use_cache = use_cache
        model.train(training)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            assert task.forward(model, batch).past_key_values is None
        counts.append({event.key: event.count for event in seen.key_averages()}.get("aten::cat"))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_a_decoder_with_a_sequence_head_keeps_none(batching):
    for config in (GPT2, LLAMA):
        model = AutoModelForSequenceClassification.from_config(copy.deepcopy(config))
        model, task, batch = prepared(model, batching, tiny.TokenTask(), tiny.token_rows(24))
        assert task.forward(model, batch).past_key_values is None


def test_generate_uses_it_and_the_configuration_stays(tmp_path):
    """Behind the prompt one token at a time goes in; the text is that of a model that nobody has touched."""
    prompt, options = torch.tensor([[5, 6, 7, 8]]), {"max_new_tokens": 6, "do_sample": False}
    plain = strong(llama())
    expected = plain.generate(prompt, **options)
    plain.save_pretrained(tmp_path / "before")
    model, *_ = prepared(plain, "packed")
    model.eval()
    lengths = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: lengths.append(args[0].shape[1]))
    assert torch.equal(model.generate(prompt, **options), expected)
    assert lengths == [4, 1, 1, 1, 1, 1]
    assert model(prompt, use_cache=True).past_key_values is not None, "whoever asks for it gets it"
    model.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert after == before and before["use_cache"] is True
