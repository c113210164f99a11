"""Dropout from 16 random bits: the right share, independent, reproducible, and a gradient that drops the same elements."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.errors import UsageError
from engine.model.dropout import FastDropout, drop, keep, numbers, random_bits, set_head_dropout, use_fast_dropout


def dropped(p: float, shape: tuple[int, ...] = (1000, 1000), dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """True where an element of ones was dropped."""
    return FastDropout(p).train()(torch.ones(shape, dtype=dtype)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_the_share_dropped_is_p(p, dtype):
    """Within 5 standard deviations of a binomial share of a million elements, which also covers rounding to 1/65536."""
    torch.manual_seed(0)
    deviation = (p * (1 - p) / 1e6) ** 0.5
    assert abs(dropped(p, dtype=dtype).double().mean().item() - p) < 5 * deviation + 1 / 65536


def test_rows_columns_and_neighbours_are_independent():
    """Counts by row and column are binomial (chi-squared within 5 standard deviations); neighbours are uncorrelated."""
    torch.manual_seed(1)
    p = 0.1
    mask = dropped(p).double()
    for axis in (0, 1):
        z = (mask.sum(axis) - 1000 * p) / (1000 * p * (1 - p)) ** 0.5
        assert abs((z**2).sum().item() - 1000) < 5 * (2 * 1000) ** 0.5
    flat = mask.flatten() - p
    for lag in (1, 2, 3, 4, 5, 8, 64, 1000):
        correlation = (flat[lag:] * flat[:-lag]).mean().item() / (p * (1 - p))
        assert abs(correlation) < 5 / 1e3, lag


def test_kept_values_are_scaled_so_that_the_mean_stays():
    torch.manual_seed(2)
    x = torch.rand(500, 400) + 0.5
    out = FastDropout(0.25).train()(x)
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    assert out.mean().item() == pytest.approx(x.mean().item(), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_drops_the_same_elements(dtype):
    torch.manual_seed(3)
    x = (torch.rand(64, 33) + 0.5).to(dtype).requires_grad_()
    out = FastDropout(0.3).train()(x)
    out.sum().backward()
    assert torch.equal(x.grad == 0, out == 0) and (out == 0).any()
    torch.testing.assert_close(x.grad[x.grad != 0].float().mean().item(), 1 / 0.7, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_gradient_has_a_gradient(dtype):
    """Of a penalty on gradients, say: that of a product with the same mask, in each type."""
    torch.manual_seed(3)
    x, weight = (torch.rand(2, 64) + 0.5).to(dtype)
    found = []
    for way in ("ours", "by hand"):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        torch.manual_seed(4)
        dropout = FastDropout(0.5).train()
        dropped = dropout(leaves[0] * leaves[1]) if way == "ours" else leaves[0] * leaves[1] * dropout(torch.ones_like(x))
        [gradient] = torch.autograd.grad(dropped.square().sum(), leaves[0], create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), leaves))
    for ours, by_hand in zip(*found, strict=True):
        assert ours.any()
        torch.testing.assert_close(ours, by_hand)


def test_the_seed_decides_and_every_call_differs():
    torch.manual_seed(4)
    first, second = dropped(0.5), dropped(0.5)
    torch.manual_seed(4)
    assert torch.equal(first, dropped(0.5)) and not torch.equal(first, second)
    state = torch.get_rng_state()
    third = dropped(0.5)
    torch.set_rng_state(state)
    assert torch.equal(third, dropped(0.5)), "a checkpoint's RNG state is all there is to save"


def test_without_training_or_probability_it_is_the_identity():
    x = torch.randn(10, 10)
    assert FastDropout(0.5).eval()(x) is x
    assert torch.equal(FastDropout(0.0).train()(x), x)
    assert not FastDropout(1.0).train()(x).any()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1001, 32_768, 40_001])
def test_any_number_of_bits(count):
    assert random_bits(count).shape == (count,) and random_bits(count).dtype == torch.int16


def test_bits_drawn_in_pieces_are_those_of_one_stream():
    torch.manual_seed(6)
    found = random_bits(4 * 200_001).view(torch.int64)
    torch.manual_seed(6)
    stream = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
    assert found.numpy().view(np.uint64).tolist() == stream.random_raw(200_001).tolist()


def test_bits_are_uniform_over_all_their_values():
    torch.manual_seed(5)
    counts = torch.bincount(random_bits(1 << 22).long() + 32768, minlength=65536).double()
    expected = (1 << 22) / 65536
    assert abs((((counts - expected) ** 2) / expected).sum().item() - 65535) < 5 * (2 * 65535) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_nought_or_not_finite_stay_what_they_are(dtype):
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -1.0], dtype=dtype)
    for bits, expected in ((32767, x), (-32768, torch.zeros_like(x))):
        kept = numbers(keep(torch.full((6,), bits, dtype=torch.int16), 0.5, dtype), torch.empty_like(x))
        out = drop(x, kept, 0.5)
        torch.testing.assert_close(out, expected, equal_nan=True)
        assert torch.equal(out.signbit(), expected.signbit())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("p", "num_kept"), [(1e-9, 65536), (0.1, 58982), (0.5, 32768), (0.99999, 1), (1 - 1e-9, 1)])
def test_of_all_bits_as_many_are_kept_as_the_probability_says(dtype, p, num_kept):
    """Each of the 65,536 values once: the same are kept in all types, and the boundary is not rounded away."""
    bits = torch.arange(-32768, 32768, dtype=torch.int16)
    x = torch.ones(65536, dtype=dtype)
    out = drop(x, numbers(keep(bits, p, dtype), torch.empty_like(x)), p)
    assert int(out.sum(dtype=torch.float64)) == num_kept and out[-num_kept:].all(), "the highest ones"


def test_a_models_dropouts_are_replaced_and_its_parameters_keep_their_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.2)))
    before = copy.deepcopy(model).state_dict()
    use_fast_dropout(model)
    assert [type(m) for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)] == [
        FastDropout,
        FastDropout,
        nn.Dropout2d,
    ]
    assert model[1].p == 0.3 and model.state_dict().keys() == before.keys()


@pytest.mark.parametrize(("kind", "heads"), [("bert", {"dropout"}), ("distilbert", {"dropout"})])
def test_the_classifiers_dropout_alone_is_set(kind, heads):
    """The modules outside the body, whatever its configuration calls them; training uses it, and it can be switched off."""
    model = getattr(tiny, kind)()
    before = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    setup = build(tiny.TokenTask(), tiny.token_rows(8), TrainConfig(device="cpu", classifier_dropout=0.7), model)
    after = {name: module.p for name, module in setup.state.model.named_modules() if isinstance(module, nn.Dropout)}
    assert {name for name in after if after[name] != before[name]} == heads and {after[name] for name in heads} == {0.7}


def test_a_model_without_a_dropout_in_its_head_is_refused():
    with pytest.raises(UsageError, match="--classifier-dropout: GPT2ForSequenceClassification has no dropout outside its body"):
        set_head_dropout(GPT2ForSequenceClassification(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20)), 0.1)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(p):
    with pytest.raises(UsageError, match="--classifier-dropout must be at least 0 and less than 1, found"):
        TrainConfig(classifier_dropout=p)
