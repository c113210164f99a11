"""Attention over packed rows: one row of T tokens holds B segments, and a token sees its own segment only.

On CUDA that is torch's own FlashAttention-2, the op behind ``torch.nn.attention.varlen``, called directly because it has
dropout there. On a CPU it is a loop over the segments, with probabilities saved for the backward pass and dropout from
16 random bits an element (dropout.py): ``scaled_dot_product_attention`` falls back to a slow path there as soon as
dropout is on, ten times slower than without. Without dropout it is what the loop calls, but for bf16 (``by_products``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.dropout import drop, keep, numbers, random_bits

LONGEST_BY_PRODUCTS = 1024  # tokens: two such segments of 12 heads are 50 MB of probabilities, in each layer


def attend(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, *, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    """[T, H, D] from q [T, H, D] and k, v [T, H or fewer, D]; ``offsets`` [B + 1] int32: where the segments begin.

    ``window``: how far a token sees to each side (to the left only when causal), or -1. Raises TypeError for float32 on
    CUDA, where the kernel has half precision only.
    """
    if torch.is_autocast_enabled(q.device.type):  # rotary positions leave queries and keys in float32
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    if q.device.type == "cuda":
        return _flash(q, k, v, offsets, longest, dropout, scale, causal, window)
    return _on_cpu(q, k, v, offsets, longest, dropout, scale, causal, window)


def _on_cpu(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    if k.shape[1] != q.shape[1]:  # grouped queries
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    bounds = offsets.tolist()
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if dropout or by_products(q.dtype, longest, trains=trains):
        bias = _bias(length_in_products(longest, q.dtype), causal, window, q.dtype)
        return _PackedAttention.apply(q, k, v, bounds, bias, dropout, scale)  # type: ignore[no-any-return,no-untyped-call]
    return _by_segment(q, k, v, bounds, scale, causal, window)


def by_products(dtype: torch.dtype, longest: int, *, trains: bool) -> bool:
    """Is attention without dropout faster as matrix products, too, than as SDPA's kernel? (docs/performance.md)

    In bf16 it is, but for a forward pass alone (not ``trains``) on a processor with a matrix unit (AMX). Segments of more
    than 1,024 tokens are left to SDPA, which keeps no probabilities. A checkpoint that runs its forward pass without gradients
    (``use_reentrant=True``, which is not ours) so computes it the one way, and again the other: equal to bf16's roundings.
    """
    fits = dtype == torch.bfloat16 and longest <= LONGEST_BY_PRODUCTS
    return fits and (trains or not torch.cpu.get_capabilities().get("amx_bf16"))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, dropout: float, scale: float, causal: bool, window: int
) -> Tensor:
    if q.dtype == torch.float32:
        raise TypeError("the packed attention kernel computes in fp16 and bf16 only")
    width = q.shape[-1]
    if rest := -width % 8:  # the kernel wants heads of a multiple of 8; zeros change no product
        q, k, v = (F.pad(t, (0, rest)) for t in (q, k, v))
    return torch.ops.aten._flash_attention_forward(  # type: ignore[no-any-return]
        q, k, v, offsets, offsets, longest, longest, dropout, causal, False,
        scale=scale, window_size_left=window, window_size_right=0 if causal else window,
    )[0][..., :width]  # fmt: skip


def _bias(longest: int, causal: bool, window: int, dtype: torch.dtype) -> Tensor | None:
    """[longest, longest], -inf where a query (row) must not see a key (column); None if it sees its whole segment."""
    if not causal and window < 0:
        return None
    ahead = torch.arange(longest)[None, :] - torch.arange(longest)[:, None]  # key position - query position
    hidden = ahead > 0 if causal else torch.zeros(longest, longest, dtype=torch.bool)
    if window >= 0:
        hidden = hidden | (ahead.abs() > window)
    return torch.zeros(longest, longest, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _by_segment(q: Tensor, k: Tensor, v: Tensor, bounds: list[int], scale: float, causal: bool, window: int) -> Tensor:
    """Without dropout SDPA is fast, and keeps no probabilities for its backward pass."""
    pieces = []
    for start, stop in pairwise(bounds):
        qs, ks, vs = (t[start:stop].transpose(0, 1)[None] for t in (q, k, v))
        mask = _bias(stop - start, causal, window, q.dtype) if window >= 0 else None
        out = F.scaled_dot_product_attention(qs, ks, vs, attn_mask=mask, is_causal=causal and mask is None, scale=scale)
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces)


class _PackedAttention(torch.autograd.Function):
    """q, k: [T, H, D], v: [T, H, D of its own]; saves them, and the probabilities and what dropout keeps, H * sum(m^2)
    elements each, where m is a segment's length in products (``length_in_products``).

    For dropout, which SDPA has on the slow path only, and without dropout where products are the faster way. With P =
    softmax(s q k'), M the kept elements and c = 1 / (1 - p): out = c (P M) v. So dv = c (P M)' g, dP = c M (g v'), and
    softmax's own kernel gives dS; c and s are folded into the last products. What is needed for one segment only lies in
    scratch memory that stays in the cache: a new tensor each time costs as much as the products.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds: list[int], bias: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        segments = _Segments(q, bounds, num_scratch=2)
        q, k, v = (segments.apart(t) for t in (q, k, v))
        out = torch.empty(v.shape, dtype=v.dtype)
        saved = (q.new_empty(segments.num_pairs),) if any(ctx.needs_input_grad) or dropout else ()
        if dropout:
            saved = (*saved, random_bits(segments.num_pairs))
        for n, (qs, ks, vs, os), pairs, (a, b) in segments(q, k, v, out, pairs=saved):
            _product(qs, ks.mT, scale, a, None if bias is None else bias[: a.shape[1], : a.shape[1]])
            if n < a.shape[1]:  # keys that fill the segment up; the queries that do may see any, and nobody reads their answers
                a[:, :n, n:].fill_(-torch.inf)
            p = torch._softmax(a, -1, False, out=pairs[0] if pairs else b)
            if dropout:
                p = drop(p, numbers(keep(pairs[1], dropout, p.dtype), b), dropout, out=a)
            _product(p, vs, 1 / (1 - dropout), os)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.bounds, ctx.dropout, ctx.scale = bounds, dropout, scale
        return segments.together(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():  # create_graph=True: it would lack the part of the second order
            raise RuntimeError("attention over packed batches has no second derivative on a CPU: use --batching padded")
        q, k, v, *saved = ctx.saved_tensors
        c = 1 / (1 - ctx.dropout)
        segments = _Segments(q, ctx.bounds, num_scratch=3)
        g = segments.apart(gradient)
        dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype) for t in (q, k, v))
        for _, (qs, ks, vs, gs, dqs, dks, dvs), (p, *kept), (dp, a, b) in segments(q, k, v, g, dq, dk, dv, pairs=saved):
            mask = numbers(kept[0], b) if kept else None
            _product((p if mask is None else drop(p, mask, ctx.dropout, out=a)).mT, gs, c, dvs)
            _product(gs, vs.mT, 1.0, dp)
            if mask is not None:
                drop(dp, mask, ctx.dropout, out=dp)
            torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=a)
            _product(a, ks, c * ctx.scale, dqs)
            _product(a.mT, qs, c * ctx.scale, dks)
        return *(segments.together(t) for t in (dq, dk, dv)), None, None, None, None


class _Segments:
    """Walks over the segments of packed tensors [T, H, any width].

    In half precision each segment lies by itself and by head meanwhile, as [H, m, D] (``apart``; ``together`` undoes it):
    oneDNN copies the operands of a product that are not contiguous, and m is the number of tokens n filled up with zeros
    (``length_in_products``). In float32 neither is worth a copy, and a segment is a view.
    """

    def __init__(self, q: Tensor, bounds: list[int], num_scratch: int):
        self.heads, self.lies_apart = q.shape[1], length_in_products(1, q.dtype) > 1
        self.places, begin, self.num_pairs, longest = [], 0, 0, 0
        for start, stop in pairwise(bounds):
            if n := stop - start:
                m = length_in_products(n, q.dtype)
                self.places.append((start, n, begin, m))
                begin, self.num_pairs, longest = begin + m, self.num_pairs + self.heads * m * m, max(longest, m)
        self.num_tokens, self.num_filled = bounds[-1], begin
        self.scratch = q.new_empty(num_scratch, self.heads * longest**2)

    def apart(self, t: Tensor) -> Tensor:
        if not self.lies_apart:
            return t
        out = torch.empty(self.num_filled, *t.shape[1:], dtype=t.dtype)
        for start, n, begin, m in self.places:
            segment = self.by_head(out, begin, m)
            segment[:, :n].copy_(t[start : start + n].transpose(0, 1))
            if m > n:
                segment[:, n:].zero_()
        return out

    def together(self, t: Tensor) -> Tensor:
        if not self.lies_apart:
            return t
        out = torch.empty(self.num_tokens, *t.shape[1:], dtype=t.dtype)
        for start, n, begin, m in self.places:
            out[start : start + n].transpose(0, 1).copy_(self.by_head(t, begin, m)[:, :n])
        return out

    def by_head(self, t: Tensor, begin: int, m: int) -> Tensor:
        segment = t[begin : begin + m]
        return segment.view(self.heads, m, t.shape[2]) if self.lies_apart else segment.transpose(0, 1)

    def __call__(self, *rows: Tensor, pairs: Sequence[Tensor]) -> Iterator[tuple[int, Any, Any, Any]]:
        """For each segment of n tokens: n, ``rows``, which are apart, as [H, m, D], ``pairs`` and the scratch as [H, m, m]."""
        at = 0
        for _, n, begin, m in self.places:
            size, shape = self.heads * m * m, (self.heads, m, m)
            yield (
                n,
                [self.by_head(t, begin, m) for t in rows],
                [t[at : at + size].view(shape) for t in pairs],
                [t[:size].view(shape) for t in self.scratch],
            )
            at += size


def length_in_products(n: int, dtype: torch.dtype) -> int:
    """The length that a segment of n tokens has in products: in half precision a multiple of 16.

    There softmax takes up to 1.9 times as long for other lengths, and oneDNN compiles each shape that it has not seen of late.
    """
    return -(-n // 16) * 16 if dtype.itemsize == 2 else n


def _product(a: Tensor, b: Tensor, factor: float, out: Tensor, bias: Tensor | None = None) -> None:
    """out = bias + factor * a @ b, batched; the factor costs nothing inside the product."""
    if bias is None:
        torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)
    else:
        torch.baddbmm(bias, a, b, alpha=factor, out=out)
