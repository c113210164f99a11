"""--reinit-layers: the last blocks begin as those of a new model do, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.distributed.wrap import blocks
from engine.errors import UsageError
from engine.model.reinit import reinitialise


@pytest.mark.parametrize("kind", ["distilbert", "bert"])
def test_the_last_blocks_are_fresh_and_nothing_else_is(kind, tmp_path):
    source = getattr(tiny, kind)()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(3.0)  # far from how any weight begins
    source.save_pretrained(tmp_path)
    before = dict(source.named_parameters())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    last = {id(parameter) for parameter in blocks(model)[-1].parameters()}
    torch.manual_seed(1)
    reinitialise(model, blocks(model), 1)
    for name, parameter in model.named_parameters():
        if id(parameter) not in last:
            assert torch.equal(parameter, before[name]), name
        elif parameter.ndim > 1:
            assert abs(parameter.mean().item()) < 0.1 and parameter.std().item() == pytest.approx(0.02, rel=0.3), name
        else:
            assert set(parameter.unique().tolist()) <= {0.0, 1.0}, name
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.manual_seed(1)
    reinitialise(again, blocks(again), 1)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True)), "by the seed"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reinit_layers": 9}, "--reinit-layers 9: BertForSequenceClassification has 2 transformer blocks"),
        ({"reinit_layers": 1, "lora": True}, "--reinit-layers changes what --lora leaves frozen"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        build(tiny.TokenTask(), tiny.token_rows(8), TrainConfig(device="cpu", **settings), tiny.bert())


def test_a_class_that_writes_in_place():
    """transformers calls ``_init_weights`` without gradients, so a class may write into a weight as it likes."""

    def begin(module):
        if isinstance(module, torch.nn.Linear):
            module.weight.fill_(5.0)

    model = tiny.bert()
    model._init_weights = begin
    reinitialise(model, blocks(model), 1)
    assert blocks(model)[-1].attention.self.query.weight.eq(5.0).all()
