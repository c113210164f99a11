"""The table of heads in docs/tasks.md is what the library's own classes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from tests.toys.architectures import BART, DISTIL, ENCODER, GPT2, LLAMA, MODERN, QWEN3, ROBERTA, T5

PAGE = (Path(__file__).parent.parent.parent / "docs/tasks.md").read_text(encoding="utf-8")
MODELS: dict[str, Any] = {
    "BERT": BertConfig(**ENCODER),
    "ALBERT": AlbertConfig(**ENCODER | {"embedding_size": 32}),
    "RoBERTa": RobertaConfig(**ROBERTA),
    "XLM-RoBERTa": XLMRobertaConfig(**ROBERTA),
    "MPNet": MPNetConfig(**ROBERTA),
    "DistilBERT": DISTIL,
    "ELECTRA": ElectraConfig(**ENCODER),
    "DeBERTa v2, v3": DebertaV2Config(**ENCODER),
    "ModernBERT": ModernBertConfig(**MODERN),
    "XLNet": XLNetConfig(vocab_size=200, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=3),
    "BART": BART,
    "T5": T5,
    "GPT-2": GPT2,
    "Llama": LLAMA,
    "Qwen 3": QWEN3,
}


def head_of(model: nn.Module) -> list[str]:
    """Its linear layers, in the order in which they are called: all outside the body, and a pooler in it."""
    body, called = f"{model.base_model_prefix}.", []
    own = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
           and (not name.startswith(body) or "pooler" in name)}  # fmt: skip
    handles = [module.register_forward_hook(lambda *_, name=name: called.append(name)) for name, module in own.items()]
    with torch.no_grad():
        model(**inputs(model))
    for handle in handles:
        handle.remove()
    return called


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, int(getattr(model.config, "eos_token_id", None) or 3)]])  # type: ignore[union-attr,arg-type]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def is_linear(model: nn.Module, first: str) -> bool:
    """Are the logits an affine function of what its first layer reads? Of x, y, their sum and nothing, in its place."""

    def logits(weights: tuple[float, float]) -> torch.Tensor:
        def replaced(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            some = torch.randn(2, *args[0].shape, generator=torch.Generator().manual_seed(1))
            return (3 * torch.einsum("i,i...->...", torch.tensor(weights), some),)

        handle = model.get_submodule(first).register_forward_pre_hook(replaced)
        with torch.no_grad():
            found: torch.Tensor = model(**inputs(model)).logits
        handle.remove()
        return found

    x, y, both, nothing = map(logits, [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
    return torch.allclose(both + nothing, x + y, atol=1e-4)


def line(name: str) -> str:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(MODELS[name]).eval()
    for parameter in model.parameters():  # large enough that an activation shows
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    layers = head_of(model)
    kind = "linear" if is_linear(model, layers[0]) else "two layers, an activation between"
    assert (kind == "linear") == (len(layers) == 1)
    return f"| {name} | {kind} | {', '.join(f'`{layer}`' for layer in layers)} |"


@pytest.mark.parametrize("name", list(MODELS))
def test_the_head_is_as_the_page_says(name):
    assert line(name) in PAGE.splitlines()


def test_no_other_model_is_in_the_table():
    rows = PAGE.split("## The head of a classifier")[1].split("\n## ")[0]
    assert [row.split(" | ")[0][2:] for row in rows.splitlines() if row.startswith("| ")][1:] == list(MODELS)
