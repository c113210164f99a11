"""The proof that packed batches compute what padded ones do, for one architecture, configuration and set of versions.

A model of the same class with two layers and random weights gets a few rows both ways, in float32 without dropout, and all
logits and all gradients have to agree. It takes about a second. On CUDA the device's kernel is compared with the CPU's, too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from engine.data import collate
from engine.data.collate import Layout, arrange
from engine.model import attention, dropout, packing
from engine.precision import Precision
from engine.settings.own import code_fingerprint

TOLERANCE = 1e-5  # of logits and gradients, relative to the largest of them where that is above 1
COPY_LENGTHS = (3, 17, 30, 30)
COPY_WINDOW, COPY_POSITIONS = 8, 64
KERNEL_TOLERANCE = 0.03  # bf16 keeps 8 bits; outputs and gradients are relative to their largest
MAX_HEAD_WIDTH = 256


def described(model: transformers.PreTrainedModel) -> str:
    """All that decides what a model computes, but for its weights: its class, configuration, code and versions."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "id2label", "label2id")}
    kind = type(model)
    parts = [kind.__module__, kind.__qualname__, code_fingerprint(kind), str(getattr(model.config, "num_labels", None)),
             str(model.config._attn_implementation), json.dumps(config, sort_keys=True, default=str), torch.__version__,
             transformers.__version__]  # fmt: skip
    return "\0".join(parts)


def fingerprint(model: transformers.PreTrainedModel, level: str) -> str:
    """Of all that a verdict depends on: the model but for its weights, and the code that packs."""
    files = [__file__, *(str(module.__file__) for module in (attention, collate, dropout, packing))]
    sources = [Path(file).read_bytes() for file in files]
    return hashlib.sha256(f"{level}\0{described(model)}".encode() + b"".join(sources)).hexdigest()[:32]


def compare_small_copy(model: transformers.PreTrainedModel, level: str) -> str | None:
    """Why packed and padded differ, or None. Draws nothing from the global generators."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        return f"{name} has an encoder and a decoder"
    if model.config.get_text_config() is not model.config:
        return f"{name} is for more than text"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would set those of the GPUs, too
            difference = largest_difference(small_copy(model), level)
    except MemoryError:
        raise
    except Exception as error:  # whatever a model does with inputs that it was not written for
        return f"{name} does not take packed batches ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if difference < TOLERANCE:
        return None
    return f"packed and padded batches differ on a small {name} (by {difference:.0e})"


def small_copy(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The same class and width, 1,000 tokens, short windows, two layers or one of each kind; weights that make a leak show."""
    config = copy.deepcopy(model.config)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    config.num_hidden_layers = max(2, len(kinds))
    for name in ("num_decoder_layers", "decoder_layers"):
        if hasattr(config, name):
            setattr(config, name, 2)
    if kinds:
        config.layer_types = (kinds * 2)[: config.num_hidden_layers]
    for window in ("sliding_window", "attention_chunk_size", "local_attention", "index_topk"):
        if getattr(config, window, None):
            setattr(config, window, min(getattr(config, window), COPY_WINDOW))
    if not getattr(config, "rope_parameters", None) and getattr(config, "max_position_embeddings", 0) > COPY_POSITIONS:
        config.max_position_embeddings = COPY_POSITIONS  # fewer than the packed row has tokens, as it is in use
    config.vocab_size = min(config.vocab_size, 1000)
    for token in ("bos", "eos", "cls", "sep"):
        if getattr(config, f"{token}_token_id", None) is not None:
            setattr(config, f"{token}_token_id", 2)
    if isinstance(getattr(config, "pad_token_id", None), int):
        config.pad_token_id = min(config.pad_token_id, 3)
    small = type(model)(config).eval()
    small.set_attn_implementation(model.config._attn_implementation)
    with torch.no_grad():
        for parameter_name, parameter in small.named_parameters():
            if parameter.dim() > 1 and "norm" not in parameter_name.lower():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return small


def largest_difference(model: transformers.PreTrainedModel, level: str) -> float:
    """Between packed and padded, over logits and all gradients; the model is left enabled."""
    config, rows = model.config, some_rows(model.config)
    pad_id = pad if isinstance(pad := getattr(config, "pad_token_id", None), int) else 0
    rows[1]["input_ids"][-1] = rows[2]["input_ids"][3] = pad_id  # in texts the token that pads, which some models skip
    tokenizer = SimpleNamespace(pad_token_id=pad_id, pad_token_type_id=0, padding_side="right")
    padded, _ = arrange(rows, Layout(), tokenizer)
    real = padded["attention_mask"].bool()
    logits, gradients = _run(model, padded, level, real)
    packing.enable(model, level)
    packed, _ = arrange(rows, Layout("packed", position_start=packing.position_start(model)), tokenizer)
    other_logits, other_gradients = _run(model, packed, level, None)
    differences = [_distance(logits, other_logits)]
    for name in gradients.keys() | other_gradients.keys():
        if name not in gradients or name not in other_gradients:
            raise ValueError(f"{name} gets a gradient in one of the two only")
        differences.append(_distance(gradients[name], other_gradients[name]))
    return max(differences)


def some_rows(config: Any, lengths: Sequence[int] = COPY_LENGTHS) -> list[dict[str, np.ndarray]]:
    """A few rows of random tokens and types."""
    generator = np.random.default_rng(0)
    positions = getattr(config, "max_position_embeddings", None) or 0
    longest = min(positions, lengths[-1]) if positions > 0 else lengths[-1]
    rows = []
    for length in [min(n, longest) for n in lengths]:
        row = {"input_ids": generator.integers(5, getattr(config, "vocab_size", 1000), length)}
        if (getattr(config, "type_vocab_size", 0) or 0) > 1:
            row["token_type_ids"] = (np.arange(length) > length // 2).astype(np.int64)
        rows.append(row)
    return rows


def _run(
    model: nn.Module, inputs: dict[str, Any], level: str, real: torch.Tensor | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits ([B, C], or [tokens, ...]) and the gradients of a weighted sum of them."""
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        logits = first_output(model(**inputs))
        if level == "token":
            logits = logits[real] if real is not None else logits[0]
        weights = torch.linspace(-1, 1, logits.numel()).view(logits.shape)
        (logits * weights).sum().div(logits.shape[0]).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def first_output(outputs: Any) -> torch.Tensor:
    """Logits in float32, or of a model without a head its hidden states; of a head that tells where something begins and where
    it ends both: [B, T, 2]."""
    if getattr(outputs, "end_logits", None) is not None:
        return torch.stack([outputs.start_logits, outputs.end_logits], -1).float()
    return outputs[0].float()  # type: ignore[no-any-return]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} padded, {tuple(b.shape)} packed")
    gap = float((a - b).abs().max() / max(1.0, float(a.abs().max())))
    return gap if math.isfinite(gap) else math.inf


def check_kernel(config: Any, device: torch.device, precision: Precision) -> str | None:
    """Does the device's kernel compute what the CPU's does, for heads like this model's? Reason why not, or None."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if width > MAX_HEAD_WIDTH:
        return f"the packed attention kernel takes heads of at most {MAX_HEAD_WIDTH}, this model's have {width}"
    lengths = [5, 130, 64]
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(sum(lengths), n, width, generator=generator) for n in (heads, kv_heads, kv_heads, heads))
    try:
        for causal, window in ((False, -1), (True, -1), (False, 16)):
            options: dict[str, Any] = {"dropout": 0.0, "scale": width**-0.5, "causal": causal, "window": window}
            results = []
            for where, kind in ((torch.device("cpu"), torch.float32), (device, dtype)):
                a, b, c = leaves = [t.to(dtype).to(where, kind).requires_grad_() for t in (q, k, v)]
                with torch.enable_grad():
                    out = attention.attend(a, b, c, offsets.to(where), max(lengths), **options)
                    out.backward(g.to(dtype).to(where, kind))
                results.append([t.detach().float().cpu() for t in (out, *(leaf.grad for leaf in leaves)) if t is not None])
            gap = max(_distance(a, b) for a, b in zip(*results, strict=True))
            if not gap < KERNEL_TOLERANCE:
                return f"the packed attention kernel computes something else on this device (off by {gap:.0e})"
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"this device does not run the packed attention kernel ({str(error).splitlines()[0]})"
    return None
