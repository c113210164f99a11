"""Padding-free batches on stock transformers models: no fork, no flash-attn package.

All rows of a batch lie end to end in one row of T real tokens. Three things make that equal to a padded batch: attention
stays within a segment, positions restart at each, and a sequence head reads each segment's token instead of column 0.
The first is an attention function registered with transformers (``AttentionInterface``); it is sdpa for a batch that is
not packed, so padded evaluation and ``generate`` work unchanged. The second is the collate's. The third is one hook.

Not every architecture fits: layout.py compares packed with padded on a small random twin before this is used.
Next: attention.py, the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.model.attention import attend
from engine.model.dropout import use_fast_dropout

NAME = "plainloop"  # without "flash" in it, which transformers treats specially
HARMLESS = ("position_ids", "segment_first", "segment_last")  # of a packed batch, too, but not for attention


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int = 0, dropout: float = 0.0, scaling: float | None = None,
    sliding_window: int | None = None, is_causal: bool | None = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """transformers' attention interface: query [1, H, T, D], key and value [1, H or fewer, T, D] -> [1, T, H, D].

    Raises NotImplementedError for what the kernels lack (position biases, soft caps, sinks, cross-attention), and for whatever
    else the model hands over: a mask, or a choice of keys, which may leave short rows as they are and change long ones.
    """
    if cu_seq_lens_q is None:
        kwargs |= {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    unknown = [name for name, value in kwargs.items() if isinstance(value, Tensor) and name not in HARMLESS]
    if unknown or kwargs.get("softcap") is not None:
        raise NotImplementedError(f"packed attention has no {[*unknown, 'softcap'][0]}")
    if attention_mask is not None and attention_mask.numel() > 1:  # more than the placeholder
        raise NotImplementedError("packed attention has no mask of the model's own")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise NotImplementedError("packed attention is self-attention over one row")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", False)
    q, k, v = (t.squeeze(0).transpose(0, 1) for t in (query, key, value))  # [0] would fill zeros in its backward pass
    out = attend(
        q, k, v, cu_seq_lens_q, max_length_q, dropout=dropout, scale=scaling or q.shape[-1] ** -0.5, causal=bool(causal),
        window=-1 if sliding_window is None else sliding_window - 1,  # transformers counts the token itself
    )  # fmt: skip
    return out[None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def position_start(model: nn.Module) -> int:
    """The number of a row's first position: RoBERTa and its kin count from behind the padding's."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(module.padding_idx) + 1  # type: ignore[arg-type]
    return 0


def enable(model: nn.Module, level: str | None) -> None:
    """Let the model take packed batches, in place; padded ones stay as they were. Before peft, compile and DDP wrap it.

    ``level``: "sequence", a head reads one vector per example, or "token". Raises NotImplementedError or ValueError for a
    model that does not know attention functions.
    """
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    if model.config._attn_implementation != NAME:  # type: ignore[union-attr]
        raise NotImplementedError(f"{type(model).__name__} has its attention built in")
    model.base_model.register_forward_pre_hook(_with_placeholder_mask, with_kwargs=True)  # type: ignore[operator,union-attr]
    if level == "sequence":
        if hasattr(model, "score"):  # decoders: their forward looks for the last token by its id
            model.forward = _last_token_forward(model, model.forward)
        else:
            model.base_model.register_forward_hook(_one_vector_per_segment, with_kwargs=True)  # type: ignore[operator,union-attr]
    use_fast_dropout(model)
    for module in {model, model.base_model}:  # reads the device in each call
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = lambda *args, **kwargs: None


def _with_placeholder_mask(base: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: a 4-D mask is handed on as it is, where none at all would be made from the positions, T x T."""
    if kwargs.get("cu_seq_lens_q") is not None:
        kwargs["attention_mask"] = torch.zeros(1, 1, 1, 1, device=kwargs["cu_seq_lens_q"].device)
    return args, kwargs


def _one_vector_per_segment(base: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
    """Forward hook: ``last_hidden_state`` [1, T, H] becomes [B, 1, H], and the pooler is applied again."""
    first = kwargs.get("segment_first")
    if first is None:
        return outputs
    hidden = outputs.last_hidden_state.squeeze(0)
    if getattr(base.config, "classifier_pooling", "cls") == "mean":  # ModernBERT
        rows = segment_means(hidden, first, kwargs["segment_last"])[:, None]
    else:
        rows = hidden.index_select(0, first)[:, None]
    outputs.last_hidden_state = rows
    pooler = getattr(base, "pooler", None)
    if getattr(base, "pooler_activation", None) is not None:  # ALBERT's pooler is a bare layer, or peft's wrapper of it
        outputs.pooler_output = base.pooler_activation(pooler(rows[:, 0]))  # type: ignore[operator,misc]
    elif pooler is not None:
        outputs.pooler_output = pooler(rows)
    return outputs


def segment_means(hidden: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """[B, H] from [T, H]. A token behind the last segment counts for a row that is cut off again."""
    segment = torch.bucketize(torch.arange(len(hidden), device=hidden.device), last)  # [T]: 0 ... B
    sums = hidden.new_zeros(len(first) + 1, hidden.shape[1], dtype=torch.float32).index_add(0, segment, hidden.float())
    return (sums[:-1] / (last + 1 - first)[:, None]).to(hidden.dtype)


def _last_but_padding(ids: Tensor, first: Tensor, last: Tensor, pad_token_id: int | None) -> Tensor:
    """[B]: where each segment's last token is that is not the padding token: such a head looks for it by its id."""
    if pad_token_id is None:
        return last
    at = torch.arange(len(ids), device=ids.device).masked_fill(ids == pad_token_id, -1)
    return torch.maximum(at.cummax(0).values.index_select(0, last), first)


def _last_token_forward(model: nn.Module, padded: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a decoder with a ``score`` head: the last token of each segment."""
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    def forward(*args: Any, segment_last: Tensor | None = None, **kwargs: Any) -> Any:
        if segment_last is None:
            return padded(*args, **kwargs)
        hidden = model.base_model(*args, **kwargs).last_hidden_state.squeeze(0)  # type: ignore[operator]
        last = _last_but_padding(kwargs["input_ids"][0], kwargs["segment_first"], segment_last, model.config.pad_token_id)  # type: ignore
        return SequenceClassifierOutputWithPast(logits=model.score(hidden.index_select(0, last)))  # type: ignore[operator]

    return forward
