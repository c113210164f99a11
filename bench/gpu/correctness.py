"""Does the device compute what it should? Each check is a row with its value, its bar and whether it holds.

    python -m bench gpu correctness

Everything that another part measures stands on these. They run on a CPU, too, where most compare a thing with itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.gpu import toys
from bench.gpu.toys import Check, distance
from engine.build import Setup
from engine.checkpoint.snapshot import model_tensors
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.loop import accumulate, train_step
from engine.model import packing
from engine.model.attention import attend
from engine.precision import Precision, choose_precision, make_autocast
from engine.state import call

LEAST_GAP = 2e-3  # what bf16 may differ by, relative, where a reference differs by nothing


def attention_dropout(device: torch.device) -> dict[str, Any]:
    """The kernel's dropout: a seed gives the same output, which is linear in v, and its mean is that without dropout.

    The gradients of a seed are told: this kernel adds those of queries up in an order that changes (--deterministic does not).
    """
    dtype, lengths = half(device), [5, 130, 64, 1, 300]
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=device)
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, g = (torch.randn(sum(lengths), 12, 64, device=device, generator=generator).to(dtype) for _ in range(4))

    def run(seed: int, dropout: float = 0.1) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(seed)
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        a, b, c = leaves
        out = attend(a, b, c, offsets, max(lengths), dropout=dropout, scale=0.125, causal=False, window=-1)
        out.backward(g)
        return out.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    (first, gradients), (second, others) = run(1), run(1)
    same = torch.equal(first, second)
    same_gradients = all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    gap = abs(1 - float((g.double() * first.double()).sum() / (gradients[2].double() * v.double()).sum()))
    number = 200 if device.type == "cuda" else 20
    mean = torch.stack([run(seed)[0].float() for seed in range(number)]).mean(0)
    off = distance({"mean": mean}, {"mean": run(0, dropout=0.0)[0].float()})
    bar = 0.5 / math.sqrt(number)
    return {"same_bits": same, "same_gradients": same_gradients, "linear_in_v": gap, "mean_off": off,
            "bar": {"linear_in_v": 0.02, "mean_off": bar},
            "ok": same and gap < 0.02 and off < bar and not torch.equal(first, run(2)[0])}  # fmt: skip


def packed_models(device: torch.device) -> dict[str, Any]:
    """Whole models: packed in half precision is no farther from padded in float32 than padded in half precision is."""
    found: dict[str, Any] = {}
    for name, (level, config) in toys.configurations(device).items():
        model = toys.make_model(level, config).to(device).train()
        task_rows = toys.rows(8, device)
        padded, packed = (arranged(task_rows, layout, device) for layout in (Layout(), Layout("packed")))
        precision = choose_precision("auto", device)
        with full_float32():
            reference = outputs(model, padded, level, "fp32", device)
        in_half = outputs(model, padded, level, precision, device)
        packing.enable(model, level)
        ours = outputs(model, packed, level, precision, device)
        found[name] = {"packed": distance(ours, reference), "padded": distance(in_half, reference)}
    return found | {"ok": all(f["packed"] < 1.5 * f["padded"] + LEAST_GAP for f in found.values())}


def no_waiting(device: torch.device) -> dict[str, Any]:
    """Five steps, in bf16 and in fp16, in which the host never waits for the device."""
    found: dict[str, Any] = {}
    for precision in ("bf16", "fp16") if device.type == "cuda" else ("bf16",):
        made, task = toys.setup(
            small_bert(device, dropout=True), toys.rows(80, device), device, precision=precision, accumulation_steps=2
        )
        batches = toys.steps(made, 8)
        run_steps(made, task, batches[:3])
        try:
            with waiting_is_an_error(device):
                run_steps(made, task, batches[3:])
            found[precision] = "never waits"
        except RuntimeError as error:
            found[precision] = " ".join(str(error).split())[:300]
    return found | {"ok": set(found.values()) == {"never waits"}}


def skipped_updates(device: torch.device) -> dict[str, Any]:
    """A step that is not finite leaves weights and the optimizer's state as they were, bit by bit."""
    found: dict[str, Any] = {}
    for precision in ("bf16", "fp16") if device.type == "cuda" else ("bf16",):
        made, task = toys.setup(small_bert(device, dropout=True), toys.rows(80, device), device, precision=precision)
        batches = toys.steps(made, 5)
        run_steps(made, task, batches[:2])
        before = {name: tensor.clone() for name, tensor in everything(made).items()}
        if precision == "fp16":
            assert made.state.scaler._scale is not None
            made.state.scaler._scale.fill_(2.0**60)  # an overflow, as a scale that has grown too far makes it
        [batch] = batches[2]
        poison = 1.0 if precision == "fp16" else math.nan
        run_steps(made, task, [[Batch(**{**batch.__dict__, "weight": poison})]])
        same = all(torch.equal(tensor, before[name]) for name, tensor in everything(made).items())
        lower = precision != "fp16" or made.state.scaler.get_scale() == 2.0**59
        found[precision] = {"unchanged": same, "scale_halved": lower}
    return found | {"ok": all(f["unchanged"] and f["scale_halved"] for f in found.values())}


def out_of_memory(device: torch.device) -> dict[str, Any]:
    """A batch that does not fit is cut, and the step computes the gradients of the whole."""
    if device.type != "cuda":
        return {"ok": True, "skipped": "an allocator with a limit is CUDA's"}
    workload = toys.rows(128, device, 0.75)
    settings: dict[str, Any] = {"batch_size": 64, "max_steps": 2}
    free, task = toys.setup(small_bert(device), workload, device, **settings)
    [batches] = toys.steps(free, 1)
    torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device)
    whole = gradients(free, task, batches)
    peak = torch.cuda.max_memory_allocated(device)
    free.state.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((base + 0.6 * (peak - base)) / total, device)
    try:
        cut = gradients(free, task, batches)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    gap = distance(cut, whole)
    return {
        "max_tokens": free.state.max_tokens,
        "gap": gap,
        "bar": 0.02,
        "ok": free.state.max_tokens is not None and gap < 0.02,
    }


def rotary_positions(device: torch.device) -> dict[str, Any]:
    """Rotary angles at position 4,000 with the matrix precision that a run sets, beside float64."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    found: dict[str, Any] = {}
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=512, num_attention_heads=8)).to(device)
    positions = torch.arange(4096, device=device)[None]
    angles = positions[0, :, None].double() * rotary.inv_freq.double()
    expected = torch.cat([angles, angles], -1).cos()
    before = torch.get_float32_matmul_precision()
    for setting in ("highest", "high"):
        torch.set_float32_matmul_precision(setting)
        cos, _ = rotary(torch.zeros(1, 1, device=device), positions)
        found[setting] = float((cos[0].double() - expected).abs().max())
    torch.set_float32_matmul_precision(before)
    in_run = {}
    for precision in ("bf16", "fp32"):
        toys.setup(small_bert(device), toys.rows(20, device), device, precision=precision)
        in_run[precision] = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    return found | {"in_run": in_run, "bar": 1e-3, "ok": found[in_run["bf16"]] < 1e-3}


def recorded(device: torch.device) -> dict[str, Any]:
    """With dropout and deterministic kernels, steps replayed from graphs are the eager steps, bit by bit; replays draw anew."""
    if device.type != "cuda":
        return {"ok": True, "skipped": "graphs are CUDA's; on a CPU: tests/engine/test_cuda_graph.py"}
    ends, drawn = [], []
    for replayed in (False, True):
        settings: dict[str, Any] = {"cuda_graph": "on", "deterministic": True, "max_steps": 48, "accumulation_steps": 2}
        made, task = toys.setup(small_bert(device, dropout=True), toys.rows(160, device), device, **settings)
        if not replayed:
            made.state.execute = call
        batches = toys.steps(made, 48)
        run_steps(made, task, batches)
        ends.append({name: tensor.clone() for name, tensor in everything(made).items()})
        drawn = [float(loss_of(made, task, batches[0])) for _ in range(6)]
    torch.use_deterministic_algorithms(False)
    gap = distance(ends[0], ends[1])
    return {"gap": gap, "distinct_losses_of_one_batch": len(set(drawn)), "ok": gap == 0.0 and len(set(drawn)) == 6}


def compiled(device: torch.device) -> dict[str, Any]:
    """30 steps compiled, recorded, and both, lose what eager steps lose."""
    if device.type != "cuda":
        return {"ok": True, "skipped": "the packed attention of a CPU is a loop, and not a graph"}
    found: dict[str, Any] = {}
    eager = losses(device, cuda_graph="off")
    ways: dict[str, dict[str, Any]] = {
        "graphs": {"cuda_graph": "on"},
        "compiled": {"compile": True, "cuda_graph": "off"},
        "compiled, graphs": {"compile": True, "cuda_graph": "on"},
    }
    for name, settings in ways.items():
        other = losses(device, **settings)
        found[name] = max(abs(a - b) for a, b in zip(eager, other, strict=True))
    torch.compiler.reset()
    return found | {"losses": [eager[0], eager[-1]], "bar": 0.03, "ok": all(found[name] < 0.03 for name in ways)}


def repeats(device: torch.device) -> dict[str, Any]:
    """Twice the same 10 steps: the same bits with --deterministic; how far without is told."""
    found: dict[str, Any] = {}
    for name, deterministic in (("deterministic", True), ("usual", False)):
        ends = []
        for _ in range(2):
            made, task = toys.setup(
                small_bert(device, dropout=True), toys.rows(160, device), device, deterministic=deterministic
            )
            run_steps(made, task, toys.steps(made, 10))
            ends.append({name: tensor.clone() for name, tensor in everything(made).items()})
        found[name] = distance(ends[0], ends[1])
    torch.use_deterministic_algorithms(False)
    return found | {"ok": found["deterministic"] == 0.0}


def learns(device: torch.device) -> dict[str, Any]:
    """A task that can be learnt is: which of two tokens stands first."""
    workload = toys.rows(640, device)
    firsts = workload.offsets[:-1]
    workload.ids[firsts] = 10 + workload.labels
    made, task = toys.setup(small_bert(device, dropout=True), workload, device, max_steps=120, learning_rate=1e-3)
    ends = [float(r.loss_sum) / 16 for r in run_steps(made, task, toys.steps(made, 120))]
    return {"first": ends[0], "last": ends[-1], "bar": 0.1, "ok": ends[-1] < 0.1}


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (attention_dropout, packed_models, no_waiting, skipped_updates, out_of_memory, rotary_positions, repeats,
                  learns, recorded, compiled)
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- helpers


def half(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def small_bert(device: torch.device, *, dropout: bool = False) -> Any:
    level, config = toys.configurations(device)["Bert"]
    return toys.make_model(level, config, dropout=dropout)


def run_steps(made: Setup, task: Any, batches: list[list[Batch]]) -> list[Any]:
    made.state.model.train()
    return [train_step(made.state, task, b, config_of(made), made.world) for b in batches]


def config_of(made: Setup) -> TrainConfig:
    return made.data.config


def gradients(made: Setup, task: Any, batches: list[Batch]) -> dict[str, Tensor]:
    """Of one step, as the loop gathers them."""
    made.state.model.train()
    divisor = torch.tensor(float(sum(b.num_items for b in batches)), device=made.state.device)
    made.state.execute(accumulate, made.state, task, batches, divisor)
    return {name: p.grad.detach().float().cpu() for name, p in made.state.model.named_parameters() if p.grad is not None}


def losses(device: torch.device, **settings: Any) -> list[float]:
    """Mean losses of 30 steps without dropout."""
    made, task = toys.setup(small_bert(device), toys.rows(480, device), device, **settings)
    return [float(record.loss_sum) / 16 for record in run_steps(made, task, toys.steps(made, 30))]


def loss_of(made: Setup, task: Any, batches: list[Batch]) -> Tensor:
    """Of a step that changes nothing."""
    loss: Tensor = made.state.execute(accumulate, made.state, task, batches, torch.ones((), device=made.state.device))
    made.state.optimizer.zero_grad(set_to_none=True)
    return loss.clone()


def everything(made: Setup) -> dict[str, Tensor]:
    """Weights and the optimizer's state by name."""
    names: dict[Tensor, str] = {p: name for name, p in made.state.model.named_parameters()}
    state = {f"{names[p]}//{k}": t for p, values in made.state.optimizer.state.items() for k, t in values.items()}
    return model_tensors(made.state.model) | state


def arranged(workload: Any, layout: Layout, device: torch.device) -> dict[str, Any]:
    """The model's inputs of all rows."""
    from bench.contest.workload import TokenTask

    task = TokenTask(workload, 512)
    examples = workload.examples()
    batch = task.collate([examples[i] for i in range(len(workload.labels))], layout).to(device)
    return dict(batch.inputs)


def outputs(model: Any, inputs: dict[str, Any], level: str, precision: Precision, device: torch.device) -> dict[str, Tensor]:
    """Logits of real tokens or rows, and the gradients of a weighted sum of them."""
    model.zero_grad(set_to_none=True)
    with make_autocast(precision, device)():
        logits = model(**inputs, use_cache=False)["logits"] if level == "token" else model(**inputs)["logits"]
    if level == "token":
        mask = inputs.get("attention_mask")
        logits = logits.squeeze(0) if mask is None else logits[mask.bool()]
    logits = logits.float()
    (logits * torch.linspace(-1, 1, logits.numel(), device=device).view(logits.shape)).sum().div(len(logits)).backward()
    # The key's bias has no gradient but rounding: softmax takes a constant out.
    found = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None and is_real(n)}
    return found | {"logits": logits.detach()}


def is_real(name: str) -> bool:
    return not name.endswith(("key.bias", "k_lin.bias", "c_attn.bias"))


@contextmanager
def full_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """CUDA alone can tell."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
