"""Packed attention against a reference written out: softmax over a mask of the whole row, in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from engine.model import attention
from engine.model.attention import attend
from engine.model.dropout import random_bits

LENGTHS = [5, 1, 17, 8]
OFFSETS = torch.tensor([0, 5, 6, 23, 31], dtype=torch.int32)


def allowed(causal: bool, window: int) -> torch.Tensor:
    """[T, T]: may the query (row) see the key (column)?"""
    segment = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    ahead = torch.arange(31)[None] - torch.arange(31)[:, None]
    seen = segment[None] == segment[:, None]
    if causal:
        seen &= ahead <= 0
    return seen & (ahead.abs() <= window) if window >= 0 else seen


def reference(q, k, v, scale, seen, kept=None, c=1.0):
    """Dense attention over the whole row."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    p = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", p * c if kept is None else p * kept * c, v)


def inputs(heads=3, kv_heads=3, width=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(31, heads, width, generator=generator, dtype=dtype)
    k, v = (torch.randn(31, kv_heads, width, generator=generator, dtype=dtype) for _ in range(2))
    return [t.requires_grad_() for t in (q, k, v)]


def both(out, expected, leaves):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((o.double() * weights).sum(), leaves) for o in (out, expected)]
    return zip([out, *gradients[0]], [expected, *gradients[1]], strict=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [-1, 0, 3])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("way", ["SDPA", "products", "products, filled up"])
def test_equal_to_dense_attention_with_a_mask(causal, window, kv_heads, way, monkeypatch):
    """Output and gradients, in float64: only the order of sums differs."""
    monkeypatch.setattr(attention, "by_products", lambda *_, **__: way != "SDPA")
    if way == "products, filled up":  # as in half precision; of the segments 17 tokens get seven more, and eight none
        monkeypatch.setattr(attention, "length_in_products", lambda n, dtype: -(-n // 8) * 8)
    leaves = inputs(heads=4, kv_heads=kv_heads)
    options = {"dropout": 0.0, "scale": 0.3, "causal": causal, "window": window}
    out = attend(*leaves, OFFSETS, 17, **options)
    expected = reference(*leaves, 0.3, allowed(causal, window))
    for ours, theirs in both(out, expected, leaves):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(attend(*leaves, OFFSETS, 17, **options), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained", ["q", "k", "v"])
@pytest.mark.parametrize(("causal", "window"), [(False, -1), (True, -1), (True, 3), (False, 3)])
def test_products_have_the_gradient_of_each_input_alone_in_every_type(dtype, trained, causal, window, monkeypatch):
    """Against float64; values narrower than queries, as DeepSeek's are."""
    monkeypatch.setattr(attention, "by_products", lambda *_, **__: True)
    q, k, _ = (t.detach() for t in inputs(heads=4, kv_heads=2, dtype=dtype))
    v = torch.randn(31, 2, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    leaves = {"q": q, "k": k, "v": v}
    leaf = leaves[trained].requires_grad_()
    out = attend(*leaves.values(), OFFSETS, 17, dropout=0.0, scale=0.3, causal=causal, window=window)
    exact = {name: t.detach().double() for name, t in leaves.items()}
    exact[trained].requires_grad_()
    expected = reference(*exact.values(), 0.3, allowed(causal, window))
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((out.double() * weights).sum(), leaf)[0]
    theirs = torch.autograd.grad((expected * weights).sum(), exact[trained])[0]
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.06, torch.float16: 0.008}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_derivative_is_refused(dtype):
    """It would lack a part without a word."""
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in inputs())
    out = attend(q, k, v, OFFSETS, 17, dropout=0.1, scale=0.3, causal=False, window=-1)
    with pytest.raises(RuntimeError, match="has no second derivative on a CPU: use --batching padded"):
        torch.autograd.grad(out.sum(), q, create_graph=True)


@pytest.mark.parametrize(("has_amx", "dtype", "longest", "trains", "expected"), [
    (False, torch.bfloat16, 1024, False, True), (False, torch.bfloat16, 1024, True, True), (False, torch.bfloat16, 1025, False, False),
    (False, torch.float32, 16, True, False), (True, torch.bfloat16, 16, False, False), (True, torch.bfloat16, 16, True, True),
    (True, torch.bfloat16, 1025, True, False),
])  # fmt: skip
def test_products_take_the_place_of_sdpa_in_bf16(has_amx, dtype, longest, trains, expected, monkeypatch):
    """A matrix unit makes SDPA the faster one in a forward pass alone."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": has_amx})
    q, k, v = torch.randn(3, 7, 2, 8, dtype=dtype)
    calls = []
    monkeypatch.setattr(attention, "_by_segment", lambda *a: calls.append("sdpa"))
    options = {"dropout": 0.0, "scale": 0.3, "causal": False, "window": -1}
    attend(q.requires_grad_(trains), k, v, torch.tensor([0, 7], dtype=torch.int32), longest, **options)
    assert (calls == []) == expected
    if trains:
        with torch.no_grad():
            attend(q, k, v, torch.tensor([0, 7], dtype=torch.int32), longest, **options)
        assert (calls == []) == attention.by_products(dtype, longest, trains=False), "without gradients nothing trains"


def test_products_without_a_gradient_keep_no_probabilities(monkeypatch):
    """An evaluation of long rows has room for one segment's only."""
    monkeypatch.setattr(attention, "by_products", lambda *_, **__: True)
    sizes = []
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: sizes.append(size) or new_empty(self, *size))
    leaves = inputs()
    options = {"dropout": 0.0, "scale": 0.3, "causal": False, "window": -1}
    attend(*[t.detach() for t in leaves], OFFSETS, 17, **options)
    assert sizes == [(2, 3 * 17**2)]
    attend(*leaves, OFFSETS, 17, **options)
    assert (3 * sum(n * n for n in LENGTHS),) in sizes[1:]


@pytest.mark.parametrize(("n", "dtype", "expected"), [
    (1, torch.bfloat16, 16), (16, torch.bfloat16, 16), (33, torch.float16, 48), (33, torch.float32, 33),
])  # fmt: skip
def test_segments_are_filled_up_in_half_precision(n, dtype, expected):
    assert attention.length_in_products(n, dtype) == expected


def test_empty_segments_are_nothing():
    """A packed batch of a rounded length ends with some."""
    leaves = inputs(dtype=torch.float32)
    options = {"dropout": 0.2, "scale": 0.3, "causal": False, "window": -1}
    torch.manual_seed(0)
    expected = attend(*leaves, OFFSETS, 17, **options)
    torch.manual_seed(0)
    empty = torch.tensor([0, 5, 5, 6, 23, 31, 31])
    found = attend(*leaves, empty, 17, **options)
    assert torch.equal(found, expected)
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), leaves) for out in (found, expected)), strict=True):
        assert torch.equal(one, other)
    plain = [attend(*leaves, offsets, 17, **(options | {"dropout": 0.0})) for offsets in (OFFSETS, empty)]
    assert torch.equal(*plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_equals_the_formula_with_the_same_bits(dtype):
    """The mask is rebuilt from the same seed; so output and gradients can be compared, with dropout on."""
    leaves = inputs(dtype=dtype)
    torch.manual_seed(7)
    out = attend(*leaves, OFFSETS, 17, dropout=0.2, scale=0.3, causal=False, window=-1)
    torch.manual_seed(7)
    bits = random_bits(3 * sum(attention.length_in_products(n, dtype) ** 2 for n in LENGTHS))
    kept = torch.zeros(3, 31, 31)
    at = 0
    for start, stop in pairwise(OFFSETS.tolist()):
        n, m = stop - start, attention.length_in_products(stop - start, dtype)
        block = bits[at : at + 3 * m * m].view(3, m, m)[:, :n, :n]
        kept[:, start:stop, start:stop] = (block >= round(0.2 * 65536) - 32768).float()
        at += 3 * m * m
    expected = reference(*[t.double() for t in leaves], 0.3, allowed(False, -1), kept, 1 / 0.8)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    for ours, theirs in both(out, expected, leaves):
        torch.testing.assert_close(ours.double(), theirs.double(), **tolerance)


def test_dropout_is_right_in_distribution():
    """With values of one and even attention an output is c times the share kept: mean 1, the variance of a binomial."""
    n, p, heads = 64, 0.1, 200
    q = torch.zeros(n, heads, 4, requires_grad=True)
    torch.manual_seed(0)
    out = attend(q, q, torch.ones(n, heads, 4), torch.tensor([0, n]), n, dropout=p, scale=1.0, causal=False, window=-1)
    shares = out[..., 0].double().flatten()  # 12,800 independent rows
    variance = p / (1 - p) / n
    assert shares.mean().item() == pytest.approx(1.0, abs=5 * (variance / len(shares)) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=5 * (2 / len(shares)) ** 0.5)


def test_dropout_differs_between_calls_and_follows_the_seed():
    leaves = inputs(dtype=torch.float32)
    options = {"dropout": 0.5, "scale": 0.3, "causal": False, "window": -1}
    torch.manual_seed(3)
    first, second = attend(*leaves, OFFSETS, 17, **options), attend(*leaves, OFFSETS, 17, **options)
    torch.manual_seed(3)
    assert torch.equal(first, attend(*leaves, OFFSETS, 17, **options)) and not torch.equal(first, second)


def test_a_segment_never_sees_another():
    """Changing every other segment, to NaN even, changes nothing here; that the test can fail: its own tokens do."""
    q, k, v = (t.detach() for t in inputs())
    options = {"dropout": 0.0, "scale": 0.3, "causal": False, "window": -1}
    before = attend(q, k, v, OFFSETS, 17, **options)[6:23]
    others = torch.ones(31, dtype=torch.bool)
    others[6:23] = False
    for t in (q, k, v):
        t[others] = torch.nan
    assert torch.equal(attend(q, k, v, OFFSETS, 17, **options)[6:23], before)
    v[6] += 1
    assert not torch.equal(attend(q, k, v, OFFSETS, 17, **options)[6:23], before)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_frees_what_is_saved(reentrant):
    """Saved through save_for_backward, so checkpointing sees it; recomputed with the same dropout, so equal gradients.

    A reentrant checkpoint runs its forward pass without gradients: dropout has to be on there, too.
    """
    from torch.utils.checkpoint import checkpoint

    leaves = inputs(dtype=torch.float32)

    def run(*tensors):
        return attend(*tensors, OFFSETS, 17, dropout=0.2, scale=0.3, causal=False, window=-1)

    torch.manual_seed(5)
    expected = run(*leaves)
    plain = torch.autograd.grad(expected.square().sum(), leaves)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        torch.manual_seed(5)
        out = checkpoint(run, *leaves, use_reentrant=reentrant)
    assert max(kept, default=0) <= leaves[0].numel(), "no probabilities are held between forward and backward"
    assert torch.equal(out, expected)
    out.square().sum().backward()
    for leaf, gradient in zip(leaves, plain, strict=True):
        assert torch.equal(leaf.grad, gradient)


def test_without_dropout_no_probabilities_are_kept():
    """Long texts: what is saved grows with T, not with the square of a length."""
    q = torch.randn(600, 2, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attend(q, q, q, torch.tensor([0, 600]), 600, dropout=0.0, scale=1.0, causal=True, window=-1).sum().backward()
    assert 0 < max(kept) <= q.numel()


def test_autocast_brings_queries_keys_and_values_to_one_type():
    """Rotary positions are added in float32, so under autocast queries and keys come in it and values do not."""
    q, k, v = inputs(dtype=torch.float32)
    for dropout in (0.0, 0.1):
        with torch.autocast("cpu", torch.bfloat16):
            out = attend(q, k, v.to(torch.bfloat16), OFFSETS, 17, dropout=dropout, scale=0.3, causal=True, window=-1)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
