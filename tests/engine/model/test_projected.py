"""Where rows stand on random lines: by hand, whatever the layout, and without a trace on the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from bench.toys import tiny
from engine.data.collate import PADDED, arrange
from engine.model.layout import pack
from engine.model.projected import LINES, attach, projected, random_lines

ROWS = [{"input_ids": np.array([2, *range(5, 5 + n), 3])} for n in (1, 9, 4)]


def decoder():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=64, num_labels=3, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


MODELS = {"bert": tiny.bert, "distilbert": tiny.distilbert, "gpt2": decoder}


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_the_mean_of_the_last_layer_on_the_lines_however_rows_lie(kind):
    model = MODELS[kind]().eval()
    tokenizer = tiny.tokenizer()
    expected = []
    with torch.inference_mode():
        for row in ROWS:
            hidden = model.base_model(torch.from_numpy(row["input_ids"])[None]).last_hidden_state[0]
            expected.append(hidden.mean(0) @ random_lines(32))
        plain = model(**arrange(ROWS, PADDED, tokenizer)[0]).logits
        for layout in (PADDED, pack(model, "sequence")):
            inputs = arrange(ROWS, layout, tokenizer)[0]
            with projected(model):
                found = model(**inputs)
            assert found.projected.shape == (3, LINES)
            assert torch.allclose(found.projected, torch.stack(expected), atol=1e-5)
            assert torch.allclose(found.logits, plain, atol=1e-5)
            after = model(**inputs)
            assert not hasattr(after, "projected") and torch.equal(after.logits, found.logits)


def test_a_model_that_is_compiled_or_has_no_body_has_none():
    model = tiny.bert()
    assert len(attach(model)) == 2 and attach(model.base_model) == [] and attach(torch.nn.Linear(1, 1)) == []
    compiled = tiny.bert()
    compiled._compiled_call_impl = lambda *given: None
    assert attach(compiled) == []


def test_under_autocast_the_lines_are_not_rounded():
    model = tiny.bert().eval()
    inputs = arrange(ROWS, PADDED, tiny.tokenizer())[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), projected(model):
        assert model(**inputs).projected.dtype == torch.float32


def test_the_lines_are_the_same_for_ever():
    """A profile is compared with rows that another version of NumPy projects."""
    lines = random_lines(3)
    expected = np.random.RandomState(20).standard_normal((3, LINES)) / 3**0.5
    assert np.allclose(lines.numpy(), expected) and lines.dtype == torch.float32
    assert lines[0, :3].tolist() == pytest.approx([0.510316, 0.113083, 0.206424], abs=1e-5)
