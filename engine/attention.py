"""Attention over packed rows: one row of T tokens holds B segments, and a token sees its own segment only.

On CUDA that is torch's own FlashAttention-2, the op behind ``torch.nn.attention.varlen``, called directly because it has
dropout there. On a CPU it is a loop over the segments, with probabilities saved for the backward pass and dropout from
16 random bits an element (dropout.py): ``scaled_dot_product_attention`` falls back to a slow path there as soon as
dropout is on, ten times slower than without.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.dropout import drop, keep, random_bits


def attend(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, *, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    """[T, H, D] from q [T, H, D] and k, v [T, H or fewer, D]; ``offsets`` [B + 1] int32: where the segments begin.

    ``window``: how far a token sees to each side (to the left only when causal), or -1. Raises TypeError for float32 on
    CUDA, where the kernel has half precision only.
    """
    if q.device.type == "cuda":
        return _flash(q, k, v, offsets, longest, dropout, scale, causal, window)
    return _on_cpu(q, k, v, offsets, longest, dropout, scale, causal, window)  # type: ignore[no-any-return]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a loop over segments is not a graph
def _on_cpu(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    if k.shape[1] != q.shape[1]:  # grouped queries
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    bounds = offsets.tolist()
    bias = _bias(longest, causal, window, q.dtype)
    if torch.is_grad_enabled():
        return _PackedAttention.apply(q, k, v, bounds, bias, dropout, scale)  # type: ignore[no-any-return,no-untyped-call]
    return _by_segment(q, k, v, bounds, bias, scale)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    wanted = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    if wanted == torch.float32:
        raise TypeError("the packed attention kernel computes in fp16 and bf16 only")
    q, k, v = q.to(wanted), k.to(wanted), v.to(wanted)
    return torch.ops.aten._flash_attention_forward(  # type: ignore[no-any-return]
        q, k, v, offsets, offsets, longest, longest, dropout, causal, False,
        scale=scale, window_size_left=window, window_size_right=0 if causal else window,
    )[0]  # fmt: skip


def _bias(longest: int, causal: bool, window: int, dtype: torch.dtype) -> Tensor | None:
    """[longest, longest], -inf where a query (row) must not see a key (column); None if it sees its whole segment."""
    if not causal and window < 0:
        return None
    ahead = torch.arange(longest)[None, :] - torch.arange(longest)[:, None]  # key position - query position
    hidden = ahead > 0 if causal else torch.zeros(longest, longest, dtype=torch.bool)
    if window >= 0:
        hidden = hidden | (ahead.abs() > window)
    return torch.zeros(longest, longest, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _by_segment(q: Tensor, k: Tensor, v: Tensor, bounds: list[int], bias: Tensor | None, scale: float) -> Tensor:
    """Without gradients and dropout SDPA is fast, and keeps nothing."""
    out = torch.empty_like(q)
    for start, stop in pairwise(bounds):
        n = stop - start
        qs, ks, vs = (t[start:stop].transpose(0, 1)[None] for t in (q, k, v))
        mask = None if bias is None else bias[:n, :n]
        out[start:stop] = F.scaled_dot_product_attention(qs, ks, vs, attn_mask=mask, scale=scale)[0].transpose(0, 1)
    return out


class _PackedAttention(torch.autograd.Function):
    """q, k, v: [T, H, D]; saves the probabilities and the bits of their dropout, H * sum(n^2) elements each.

    With P = softmax(s q k'), M the kept elements and c = 1 / (1 - p): out = c (P M) v. So dv = c (P M)' g,
    dP = c M (g v'), and softmax's own kernel gives dS; c and s are folded into the last products.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds: list[int], bias: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        heads = q.shape[1]
        num_pairs = heads * sum((stop - start) ** 2 for start, stop in pairwise(bounds))
        p_all = q.new_empty(num_pairs)
        bits_all = random_bits(num_pairs) if dropout else None
        out = torch.empty(q.shape, dtype=q.dtype)
        at = 0
        for start, stop in pairwise(bounds):
            n = stop - start
            qs, ks, vs = (t[start:stop].transpose(0, 1) for t in (q, k, v))  # [H, n, D]
            p = p_all[at : at + heads * n * n].view(heads, n, n)
            scores = _product(qs, ks.mT, scale, None if bias is None else bias[:n, :n])
            torch._softmax(scores, -1, False, out=p)
            if bits_all is not None:
                p = drop(p, keep(bits_all[at : at + heads * n * n].view(heads, n, n), dropout, p.dtype))
            out[start:stop] = _product(p, vs, 1 / (1 - dropout)).transpose(0, 1)
            at += heads * n * n
        ctx.save_for_backward(q, k, v, p_all, bits_all)
        ctx.bounds, ctx.dropout, ctx.scale = bounds, dropout, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, p_all, bits_all = ctx.saved_tensors
        heads, c = q.shape[1], 1 / (1 - ctx.dropout)
        dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
        at = 0
        for start, stop in pairwise(ctx.bounds):
            n = stop - start
            qs, ks, vs, g = (t[start:stop].transpose(0, 1) for t in (q, k, v, gradient))
            p = kept = p_all[at : at + heads * n * n].view(heads, n, n)
            dp = torch.bmm(g, vs.mT)
            if bits_all is not None:
                mask = keep(bits_all[at : at + heads * n * n].view(heads, n, n), ctx.dropout, p.dtype)
                kept, dp = drop(p, mask), drop(dp, mask)
            dv[start:stop] = _product(kept.mT, g, c).transpose(0, 1)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dq[start:stop] = _product(ds, ks, c * ctx.scale).transpose(0, 1)
            dk[start:stop] = _product(ds.mT, qs, c * ctx.scale).transpose(0, 1)
            at += heads * n * n
        return dq, dk, dv, None, None, None, None


def _product(a: Tensor, b: Tensor, factor: float, bias: Tensor | None = None) -> Tensor:
    """bias + factor * a @ b, batched; the factor costs nothing inside the product."""
    if bias is None:
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=factor)
    return torch.baddbmm(bias, a, b, alpha=factor)
