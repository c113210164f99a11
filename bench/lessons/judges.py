"""Is an exercise solved? Each judge runs the student's function on a small case and says in one sentence what is still wrong.

A judge gets the student's module and returns the sentence, or "" when all is right. It knows the usual wrong answers by their
numbers: what came out is compared with what each of them gives. exercise.py runs this in a process of its own.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from bench.lessons.judges_of_ranks import ranks
from bench.lessons.judges_of_reports import best_of_n, calibration, global_state, logged_loss, packing, workers

TOO_LONG = 124  # exit code of a file that did not end, as timeout(1) has it
Batches = list[tuple[Tensor, Tensor]]


def judge(arguments: Sequence[str]) -> int:
    """``NAME FILE RESULT SECONDS``: check the file and write the sentence as JSON into RESULT; after so long the process ends.

    The seconds are those of the student's code: importing torch, which takes longer where a machine is busy, is over by now.
    """
    name, file, result, seconds = arguments
    torch.set_num_threads(1)
    watchdog = threading.Timer(float(seconds), os._exit, [TOO_LONG])
    watchdog.daemon = True
    watchdog.start()
    Path(result).write_text(json.dumps({"said": sentence(name, Path(file))}), encoding="utf-8")
    return 0


def sentence(name: str, file: Path) -> str:
    """What is still wrong; "" if nothing is."""
    try:
        spec = importlib.util.spec_from_file_location("exercise", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function, judged = JUDGES[name]
        if not callable(getattr(module, function, None)):
            return f"there is no function {function}() in it: keep its name, the check calls it"
        return judged(getattr(module, function))
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        where = f"line {lines[-1]}" if lines else f"line {error.lineno}" if isinstance(error, SyntaxError) else "it"
        return f"{where} raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")


# -------------------------------------------------------------------------------------------------------------- accumulation


def some_batches(sizes: Sequence[int], seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def linear(*, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 3)) if dropout else nn.Linear(4, 3)


def gradient(loss: Callable[[nn.Module, Tensor, Tensor], Tensor], batches: Batches) -> Tensor:
    """The sum of the gradients of these losses, flat."""
    model = linear()
    for inputs, labels in batches:
        loss(model, inputs, labels).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def moved(step: Callable[..., Any], batches: Batches) -> tuple[Tensor, int, bool]:
    """By how much the student's step lowers the weights with SGD at rate 1; its optimizer steps; are gradients left behind?"""
    model, made = linear(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_post_hook(lambda *_: made.append(1))
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    step(model, optimizer, batches)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    left = any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    return before - after, len(made), left


def accumulation(step: Callable[..., Any]) -> str:
    mean = lambda model, x, y: F.cross_entropy(model(x), y)  # noqa: E731
    for sizes in ((4, 4, 4), (5, 5, 2)):
        batches, pieces = some_batches(sizes), len(sizes)
        whole: Batches = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
        found, steps, left = moved(step, batches)
        right, rows = gradient(mean, whole), sum(sizes)
        if steps != 1:
            return f"it makes {steps} optimizer steps over {pieces} micro-batches, and one is asked for"
        if close(found, right):
            if left:
                return "gradients are left behind: the next step would add to them (zero_grad)"
            continue
        if close(found, rows * right):
            return f"the gradient is {rows} times too large: it is the sum over {rows} rows, and nobody divides by their number"
        if close(found, gradient(mean, batches)):
            return (
                f"the gradient is about {pieces} times too large: the means of {pieces} "
                "micro-batches are added up, as Trainer does it"
            )
        if close(found, gradient(mean, batches) / pieces):
            return (
                f"right for micro-batches of one size, wrong for {' + '.join(map(str, sizes))} rows: divided by the number of "
                "micro-batches, a row in the short one weighs more than the others"
            )
        if any(close(found, factor * gradient(mean, batches[-1:])) for factor in (1, 1 / pieces, sizes[-1] / rows)):
            return "only the last micro-batch counts: the gradients of the others are thrown away before the step"
        return f"with {' + '.join(map(str, sizes))} rows the weights move otherwise than with one batch ({gap(found, right)})"
    return ""


# --------------------------------------------------------------------------------------------------------------------- order


def order(function: Callable[..., Any]) -> str:
    before = global_state()
    first = list(function(50, 42, 0))
    after = global_state()
    again = list(function(50, 42, 0))
    if sorted(first) != list(range(50)):
        return f"not each row comes once: {len(set(first))} different ones of 50, in {len(first)} places"
    if first == sorted(first):
        return "the rows are not shuffled: the first epoch reads them as they stand in the file"
    if first != again:
        return "called again with the same seed and epoch it gives another order: a resumed run would read other rows"
    if before != after:
        return "it draws from a global generator, or seeds it: the dropout behind it is changed by looking at the order"
    if list(function(50, 42, 1)) == first:
        return "every epoch has the same order: the epoch is not used"
    if list(function(50, 7, 0)) == first:
        return "every seed has the same order: the seed is not used"
    if list(function(50, 43, 0)) == list(function(50, 42, 1)):
        return "the second epoch of seed 42 is the first one of seed 43: added up, the two numbers say the same"
    if list(function(50, 1, 2)) == list(function(50, 2, 1)):
        return "epoch 2 of seed 1 is epoch 1 of seed 2: combined so, the two numbers say the same"
    return ""


# ----------------------------------------------------------------------------------------------------------------- num-items


def num_items(function: Callable[..., Any]) -> str:
    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(3, 7, 11, generator=generator), torch.randint(0, 11, (3, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(3, 6)
    own = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(3, 7)
    real = mask[:, 1:]
    right = (each * real).sum() / real.sum()
    found = function(logits.clone(), ids.clone(), mask.clone())
    if not isinstance(found, Tensor) or found.dim():
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        return f"it returns {what}, and a scalar tensor is asked for"
    if close(found, right):
        moved_padding = function(logits.masked_fill(mask[..., None] == 0, 1e4), ids.clone(), mask.clone())
        return "" if close(moved_padding, right) else "what stands in the padding changes the loss"
    usual = (
        (own.mean(), "each position is compared with its own token and not with the one behind it, and padding counts, too"),
        ((own * mask).sum() / mask.sum(), "each position is compared with its own token: it has to predict the one behind it"),
        (each.mean(), "padding counts: targets that are no tokens are predicted and averaged over"),
        (
            (each * real).sum() / mask.sum(),
            "divided by all tokens; the first of each row is no target: Trainer does that to GPT-2",
        ),
        (
            ((each * real).sum(1) / real.sum(1)).mean(),
            "each row weighs the same: a token in a short row counts more than one in a long row",
        ),
        ((each * real).mean(), "padding is zeroed and still divided by: the mean is over places, and not over tokens"),
        ((each * real).sum(), "it is the sum over the tokens: nobody divides by their number"),
    )  # fmt: skip
    return next(
        (said for value, said in usual if close(found, value)),
        f"the loss is {float(found):.4f} and should be {float(right):.4f}",
    )


# ------------------------------------------------------------------------------------------------------------------ clipping


def clipped(step: Callable[..., Any], factor: float, max_norm: float) -> tuple[Tensor, Tensor, nn.Module, GradScaler]:
    """The true gradient of a loss times ``factor``, and by how much the student's step moves the weights (SGD at rate 1)."""
    model, scaler = linear(), GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    [(inputs, labels)] = some_batches([6])
    true = gradient(lambda m, x, y: factor * F.cross_entropy(m(x), y), [(inputs, labels)])
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    step(model, optimizer, scaler, factor * F.cross_entropy(model(inputs), labels), max_norm)
    return true, before - torch.cat([p.detach().flatten() for p in model.parameters()]), model, scaler


def clipping(step: Callable[..., Any]) -> str:
    true, found, _, _ = clipped(step, 100.0, 1.0)
    norm = float(found.norm())
    if close(found, true):
        return f"nothing is clipped before the weights move: the step has the norm {norm:.1f}, and 1.0 is the most"
    if close(found, true / true.norm() / 1024, 1e-2):
        return "the step is 1/1024 as long as it should be: what was clipped was still multiplied by the loss scale"
    if close(found, 1024 * true) or (norm > 1.01 and close(found / norm, true / true.norm())):
        return (
            f"the step has the norm {norm:.4g}, and 1.0 is the most: the loss scale is not divided out before the weights move"
        )
    if not close(found, true / true.norm(), 1e-3):
        return f"a long gradient should be cut down to the norm 1.0, and the step has {norm:.4g}"
    true, found, _, _ = clipped(step, 0.1, 1.0)
    if not close(found, true, 1e-4):
        return (
            f"a gradient of norm {float(true.norm()):.3f} is short enough and must stay; the step has {float(found.norm()):.3f}"
        )
    _, found, model, scaler = clipped(step, math.inf, 1.0)
    if not all(bool(p.isfinite().all()) for p in model.parameters()) or bool(found.ne(0).any()):
        return "a gradient that overflowed reached the weights: scaler.step(optimizer) leaves such a step out"
    if scaler.get_scale() >= 1024:
        return "after a gradient that overflowed the scale is still 1024: scaler.update() makes it smaller"
    if any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()):
        return "gradients are left behind: the next step would add to them (zero_grad)"
    return ""


# --------------------------------------------------------------------------------------------------------------------- decay


class Scale(nn.Module):
    """A norm that no library knows, as many a model has its own."""

    def __init__(self, size: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / x.pow(2).mean(-1, keepdim=True).sqrt()


def decay(make: Callable[..., Any]) -> str:
    model = nn.ModuleDict({"tokens": nn.Embedding(5, 4), "ln": nn.LayerNorm(4), "first": nn.Linear(4, 4), "scale": Scale(4),
                           "last": nn.Linear(4, 3)})  # fmt: skip
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(model)
    optimizer = make(model, 0.1, 0.01)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if id(parameter) not in held:
            return f"{name} is in no group: it would never be trained"
    if any(group["lr"] != 0.1 for group in optimizer.param_groups):
        return "not all groups have the learning rate that was asked for"
    optimizer.step()
    old = dict(before.named_parameters())
    lost = {name: float((old[name] - p).max()) for name, p in model.named_parameters()}
    matrices = [name for name in lost if name in ("tokens.weight", "first.weight", "last.weight")]
    why = {
        "bias": "biases are decayed", "ln.weight": "its class, LayerNorm, says that it is a norm, and its name does not",
        "scale.gain": "it belongs to a norm that neither its class nor its name gives away; its shape does (one dimension)",
    }  # fmt: skip
    spared = [name for name in lost if name not in matrices and lost[name] > 0]
    if len(spared) == len(lost) - len(matrices):
        return f"all {len(lost)} parameters are decayed, biases and norms, too: {', '.join(spared[:2])} and others"
    for name in spared:
        return f"{name} is decayed: {why['bias' if name.endswith('bias') else name]}"
    for name in matrices:
        if not math.isclose(lost[name], 0.1 * 0.01, rel_tol=1e-3):
            return f"{name} loses {lost[name]:.2g} in a step and should lose {0.1 * 0.01:.2g}: learning rate times weight decay"
    return ""


# ------------------------------------------------------------------------------------------------------------------ schedule


def schedule(rate: Callable[..., Any]) -> str:
    total, warmup, peak = 10, 4, 0.5
    found = [float(rate(step, total, warmup, peak)) for step in range(1, total + 1)]
    right = [peak * step / warmup for step in range(1, warmup + 1)]
    right += [peak * (total + 1 - step) / (total + 1 - warmup) for step in range(warmup + 1, total + 1)]
    if len(set(found)) == 1:
        return f"the rate is {found[0]:g} in every step: it neither rises nor falls"
    if found[0] == 0:
        return "the first step has the learning rate 0: its batch is read and not learned from, as with Trainer"
    if all(math.isclose(a, b) for a, b in zip(found[:warmup], right[:warmup], strict=True)):
        if found[-1] == 0:
            return "the last step has the learning rate 0: its batch is read and not learned from"
        if found[warmup:] == [peak] * (total - warmup):
            return "it rises as it should, and then stays at the peak: it has to fall evenly"
        if not all(math.isclose(a, b) for a, b in zip(found, right, strict=True)):
            at = next(i for i, (a, b) in enumerate(zip(found, right, strict=True)) if not math.isclose(a, b))
            return f"step {at + 1}, behind the warm-up, has {found[at]:.4g} and should have {right[at]:.4g}"
    else:
        at = next(i for i in range(warmup) if not math.isclose(found[i], right[i]))
        top = found.index(max(found)) + 1
        return f"step {at + 1} of the warm-up has {found[at]:.4g} and should have {right[at]:.4g} (the peak is at step {top})"
    try:
        without = [float(rate(step, total, 0, peak)) for step in range(1, total + 1)]
    except ZeroDivisionError:
        return "without a warm-up (warmup=0) it divides by zero"
    expected = [peak * (total + 1 - step) / total for step in range(1, total + 1)]
    wrong = [i for i, (a, b) in enumerate(zip(without, expected, strict=True)) if not math.isclose(a, b)]
    return (
        f"with warmup=0 step {wrong[0] + 1} has {without[wrong[0]]:.4g} and should have {expected[wrong[0]]:.4g}"
        if wrong
        else ""
    )


# ---------------------------------------------------------------------------------------------------------------- last-batch


def last_batch(evaluate: Callable[..., Any]) -> str:
    batches, model = some_batches((6, 6, 1)), linear(dropout=0.5)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        model.eval()
        right = float(F.cross_entropy(model(inputs), labels))
        means = sum(float(F.cross_entropy(model(x), y)) for x, y in batches) / len(batches)
        found = evaluate(model, batches)
    if isinstance(found, Tensor):
        return "it returns a tensor, and a number is asked for: .item()"
    if model.training:
        return "a model that was in eval mode is in training mode afterwards"
    if math.isclose(found, means, rel_tol=1e-5):
        return "it is the mean of the batches' means: the last batch has one row, and that row weighs as much as six others"
    if math.isclose(found, right * len(labels), rel_tol=1e-5):
        return f"it is the sum over {len(labels)} rows: nobody divides by their number"
    if not math.isclose(found, right, rel_tol=1e-5):
        return f"the loss is {found:.4f} and should be {right:.4f}"
    model.train()
    if not math.isclose(evaluate(model, batches), right, rel_tol=1e-5):
        return "of a model in training mode it gives another loss: dropout is on (model.eval())"
    if not all(part.training for part in model.modules()):
        return "it leaves the model in eval mode: the training behind it would be without dropout"
    return "" if all(p.grad is None for p in model.parameters()) else "it leaves gradients behind"


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Relative to the larger of the two."""
    return bool((a - b).norm() <= tolerance * max(float(a.norm()), float(b.norm()), 1e-12))


def gap(found: Tensor, right: Tensor) -> str:
    return f"{float((found - right).norm() / right.norm()):.0%} of the right gradient's length beside it"


JUDGES: dict[str, tuple[str, Callable[[Callable[..., Any]], str]]] = {  # lesson: the function asked for, and its judge
    "accumulation": ("step", accumulation), "num-items": ("loss", num_items), "clipping": ("step", clipping),
    "decay": ("make_optimizer", decay), "schedule": ("rate", schedule), "order": ("order", order),
    "last-batch": ("evaluate", last_batch), "packing": ("packed", packing), "calibration": ("temperature", calibration),
    "best-of-n": ("choose", best_of_n), "logged-loss": ("logged", logged_loss), "workers": ("mask", workers),
    "ranks": ("factor", ranks),
}  # fmt: skip
