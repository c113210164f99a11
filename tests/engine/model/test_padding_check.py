"""On which side rows may be padded, found by trying; and where neither side will do, texts of one length stand together."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.cache import cache_folder
from engine.data.collate import Layout, arrange
from engine.data.plan import eval_batches
from engine.distributed.world import World
from engine.loader import batches, eval_loader
from engine.model import layout, padding_check
from engine.model.layout import choose_layout
from engine.model.padding_check import harmless_sides
from tests.toys.architectures import DECODER, ENCODER, GPT2, LLAMA, ROBERTA, strong

CPU = torch.device("cpu")
SEQUENCE, MASKED, CAUSAL = AutoModelForSequenceClassification, AutoModelForMaskedLM, AutoModelForCausalLM
XLNET = transformers.XLNetConfig(vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=3, pad_token_id=0)
FNET = transformers.FNetConfig(**ENCODER)
CONV = transformers.ConvBertConfig(**ENCODER, embedding_size=32)
SIDES = {
    "Bert": (transformers.BertConfig(**ENCODER), SEQUENCE, ("right",)),
    "Roberta, masked": (transformers.RobertaConfig(**ROBERTA), MASKED, ("right", "left")),  # it counts positions by the padding's id
    "GPT2": (GPT2, CAUSAL, ("right",)),
    "Llama, classes": (LLAMA, SEQUENCE, ("right", "left")),
    "Mistral": (transformers.MistralConfig(**DECODER, sliding_window=8), CAUSAL, ("right", "left")),
    "XLNet, whose head reads the last vector": (XLNET, SEQUENCE, ("left",)),
    "FNet, a Fourier transform over all": (FNET, SEQUENCE, ()),
    "ConvBert, convolutions": (CONV, MASKED, ()),
}  # fmt: skip


def make(name: str):
    config, kind, _ = SIDES[name]
    torch.manual_seed(0)
    return strong(kind.from_config(copy.deepcopy(config)))


@pytest.mark.parametrize("name", SIDES)
def test_each_side_is_tried(name):
    """And the answer is that of the model itself, beside a longer text."""
    _, kind, sides = SIDES[name]
    model, level = make(name), "sequence" if kind is SEQUENCE else "token"
    assert harmless_sides(model, level) == sides
    for side in ("right", "left"):
        assert (padding_check.difference(model, level, side) < padding_check.TOLERANCE) == (side in sides)


def test_a_text_shorter_than_the_model_takes():
    """CANINE halves a row twice, and transformers fails with fewer than four characters: such rows are padded to as many, whatever
    stands beside them."""
    torch.manual_seed(0)
    config = transformers.CanineConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = strong(transformers.CanineForSequenceClassification(config))
    with pytest.raises(RuntimeError):
        model(input_ids=torch.tensor([[5, 6, 7]]))
    found = layout.padded(model, "sequence")
    assert found.shortest == 4 and layout.padded(model, "sequence") == found  # from the cache, too
    tokenizer = tiny.tokenizer()
    alone = arrange([{"input_ids": np.array([5, 6, 7])}], found, tokenizer)[0]
    assert alone["input_ids"].shape == (1, 4) and alone["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert model(**alone)[0].isfinite().all()
    blocks = {"block_sizes": [1, 1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "vocab_size": 100}
    funnel = transformers.FunnelForSequenceClassification(transformers.FunnelConfig(**blocks))
    assert layout.padded(funnel, "sequence").shortest == 5
    assert layout.padded(tiny.bert(), "sequence").shortest == 1 and layout.padded(tiny.bert(), None).shortest == 1


def test_a_model_that_has_no_small_copy_is_tried_itself(monkeypatch):
    monkeypatch.setattr(padding_check, "small_copy", lambda model: model.no_such_thing)
    assert harmless_sides(make("XLNet, whose head reads the last vector"), "sequence") == ("left",)


def test_one_that_cannot_be_tried_is_judged_by_its_positions(monkeypatch):
    monkeypatch.setattr(padding_check, "difference", lambda *_: 1 / 0)
    assert harmless_sides(tiny.bert(), "sequence") == ("right",)
    assert harmless_sides(make("Llama, classes"), "sequence") == ("right", "left")
    assert harmless_sides(tiny.bert(), None) == ("right",)  # batches hold more than text


def test_running_out_of_memory_is_no_answer(monkeypatch):
    monkeypatch.setattr(padding_check, "small_copy", lambda model: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        layout.padded(tiny.bert(), "sequence")
    assert list((cache_folder() / "padding").iterdir()) == []


def test_it_draws_nothing_leaves_the_model_alone_and_is_asked_once(monkeypatch):
    model = tiny.bert().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    calls = []
    real = padding_check.harmless_sides
    monkeypatch.setattr(padding_check, "harmless_sides", lambda *a: calls.append(a) or real(*a))
    for _ in range(3):
        assert layout.padded(model, "sequence") == Layout(sides=("right",))
    assert len(calls) == 1 and model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    layout.padded(model, "token")
    assert len(calls) == 2
    [known] = list((cache_folder() / "padding").glob("*/verdict.json"))[:1]
    known.write_text("[]")  # damaged: made again
    layout.padded(model, "sequence"), layout.padded(model, "token")
    assert len(calls) == 3


def test_the_tokenizers_side_counts_where_it_may():
    def side(sides, wanted):
        tokenizer = tiny.tokenizer()
        tokenizer.padding_side = wanted
        return Layout(sides=sides).pads_left(tokenizer)

    assert side(("right", "left"), "left") and not side(("right", "left"), "right")
    assert side(("left",), "right") and not side(("right",), "left")
    assert side((), "left") and not side((), "right")


def test_where_padding_matters_it_is_said_with_the_way_around(capsys):
    found = choose_layout("padded", make("FNet, a Fourier transform over all"), "sequence", None, CPU, "fp32")
    err = capsys.readouterr().err
    assert found.padding_matters and "padding changes what FNetForSequenceClassification computes" in err
    assert "--batch-size 1 with --accumulation-steps" in err
    assert not choose_layout("padded", tiny.bert(), "sequence", None, CPU, "fp32").padding_matters
    assert not Layout("max_length", 32, sides=()).padding_matters, "all rows are padded alike"
    assert "padding changes" not in capsys.readouterr().err


def test_rows_of_one_length_stand_together_longest_first():
    lengths = np.array([3, 5, 3, 7, 5, 3])
    batches = [[row for _, row in batch] for batch in eval_batches(lengths, 2, same_length=True)]
    assert batches == [[3], [1, 4], [0, 2], [5]]
    assert [[row for _, row in batch] for batch in eval_batches(lengths, 4)] == [[3, 1, 4, 0], [2, 5]]


def test_evaluation_gives_each_row_what_it_has_alone():
    model = make("FNet, a Fourier transform over all")
    task, rows = tiny.TokenTask(model), tiny.token_rows(40)
    found = layout.padded(model, "sequence")
    loader = eval_loader(task, rows, found, TrainConfig(device="cpu"), World(CPU))
    together = {}
    with torch.inference_mode():
        for batch in batches(loader):
            for (_, row), logits in zip(batch.keys, model(**batch.inputs).logits, strict=True):
                together[row] = logits
        alone = {i: model(**arrange([rows[i]], found, tiny.tokenizer())[0]).logits[0] for i in range(40)}
        beside = model(**arrange([rows[i] for i in range(40)], found, tiny.tokenizer())[0]).logits
    assert len(together) == 40
    for row, logits in alone.items():
        torch.testing.assert_close(together[row], logits, rtol=1e-5, atol=1e-5)
    assert max(float((beside[i] - alone[i]).abs().max()) for i in range(40)) > 1e-2, "padded together they differ"


def test_the_verdict_names_the_model(tmp_path):
    layout.padded(tiny.bert(), "sequence")
    [known] = (cache_folder() / "padding").glob("*/verdict.json")
    assert json.loads(known.read_text()) == {"model": "BertForSequenceClassification", "sides": ["right"], "shortest": 1}
