"""What the optimizer makes of a gradient: weight decay, the learning rate, fp16's loss scale, and the dtype of the weights."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from engine.data.batch import Batch

# -------------------------------------------------------------------------------------------------------------- decay


class NoGradient(Trainer):  # type: ignore[misc,no-any-unimported]
    """Every gradient is exactly zero, so that nothing but weight decay moves a weight."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return 0.0 * model(**inputs).loss


class NoGradientTask(toys.Classes):
    """The same on our side."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return 0.0 * super().loss(outputs, batch)


def ones() -> nn.Module:
    """A model whose weights are all 1: what is missing after a step is what decay took."""
    model: nn.Module = toys.bert()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model


def kind_of(name: str) -> str:
    if "embeddings" in name and "LayerNorm" not in name:
        return "embeddings"
    return "norms" if "LayerNorm" in name else "biases" if name.endswith("bias") else "linear weights"


def lost(model: nn.Module) -> dict[str, float]:
    """Per mille that the weights of each kind have lost."""
    values: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        values.setdefault(kind_of(name), []).append(parameter.detach().flatten())
    return {kind: round(1000 * (1 - float(torch.cat(parts).mean())), 3) for kind, parts in values.items()}


def plain_adamw(model: nn.Module, learning_rate: float) -> None:
    """The line of most hand-written loops, without and with torch's default decay of 0.01."""
    torch.optim.AdamW(model.parameters(), lr=learning_rate).step()


def decay(folder: str) -> Finding:
    rate, rows = 0.1, random_workload(8, 4, 24)
    found: dict[str, dict[str, float]] = {}
    asked: dict[str, dict[str, Any]] = {"Trainer": {}, "Trainer, weight_decay=0.01": {"weight_decay": 0.01}}
    for name, arguments in asked.items():
        model = ones()
        trainer = toys.make_trainer(
            model, toys.features(rows), folder, kind=NoGradient, learning_rate=rate, max_steps=1, **arguments
        )  # fmt: skip
        trainer.train()
        found[name] = lost(model)
    model = ones()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plain_adamw(model, rate)
    found["AdamW(model.parameters())"] = lost(model)
    model = ones()
    setup, task = toys.set_up(model, rows, task=NoGradientTask(rows), learning_rate=rate, batch_size=8)
    list(toys.our_steps(setup, task))
    found["Plainloop"] = lost(model)
    kinds = list(found["Plainloop"])

    def draw(axes: Any) -> None:
        series = {name: [values[kind] for kind in kinds] for name, values in found.items()}
        toys.grouped_bars(axes, kinds, series, (COLOURS[5], COLOURS[1], COLOURS[3], COLOURS[0]), "{:g}")
        axes.set_ylabel("lost in one step at learning rate 0.1, per mille")
        axes.set_ylim(0, 1.75)

    kept = ("norms", "biases")
    named = found["Trainer, weight_decay=0.01"]
    return Finding(
        holds=not any(found["Trainer"].values()) and not any(named[kind] for kind in kept)
        and all(found["AdamW(model.parameters())"].values()),
        said="Trainer decays nothing by default, and never norms and biases; AdamW as it comes decays them all",
        table=[["per mille lost in a step", *kinds], *([name, *(f"{v[k]:g}" for k in kinds)] for name, v in found.items())],
        draw=draw,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- schedule


class Watch(TrainerCallback):  # type: ignore[misc,no-any-unimported]
    """For each step the learning rate that the optimizer used and how far the weights moved."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.moved: list[float] = []
        self.before = torch.empty(0)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.before = toys.parameters_of(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.moved.append(float((toys.parameters_of(model) - self.before).norm()))


def schedule(folder: str) -> Finding:
    peak, workload = 1e-3, random_workload(80, 4, 24)
    watch = Watch()
    toys.make_trainer(
        toys.bert(),
        toys.features(workload),
        folder,
        callbacks=[watch],
        learning_rate=peak,
        warmup_steps=0.3,
        num_train_epochs=1,
    ).train()
    setup, task = toys.set_up(toys.bert(), workload, batch_size=8, learning_rate=peak, warmup_ratio=0.3)
    ours = [record.learning_rate for _, _, record in toys.our_steps(setup, task)]

    def draw(axes: Any) -> None:
        steps = range(1, len(watch.rates) + 1)
        axes.bar(steps, watch.moved, color=COLOURS[5], label="distance the weights move (left)")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("2-norm of the step's change of the weights")
        right = axes.twinx()
        right.plot(steps, [1000 * rate for rate in watch.rates], color=COLOURS[3], marker="o", label="learning rate (right)")
        right.set_ylabel("learning rate, thousandths")
        right.set_ylim(bottom=0)
        right.spines["right"].set_visible(True)
        lines = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="upper right")
        axes.set_xticks(list(steps))

    return Finding(
        holds=watch.rates[0] == 0 == watch.moved[0] and watch.rates[-1] > 0,
        said=f"With warm-up the first step moves nothing; the last one still has {watch.rates[-1] / peak:.0%} of the peak rate",
        table=[
            ["step", "Trainer's learning rate", "its weights move by", "Plainloop's learning rate"],
            *(
                [str(i + 1), f"{rate:.2e}", f"{moved:.4f}", f"{mine:.2e}"]
                for i, (rate, moved, mine) in enumerate(zip(watch.rates, watch.moved, ours, strict=True))
            ),
        ],
        draw=draw,
    )


# --------------------------------------------------------------------------------------------------------------- fp16


def scaler() -> GradScaler:
    """As on CUDA, in a time-lapse: too large at first, and doubled after 3 good steps, where it is 2,000."""
    return GradScaler("cpu", init_scale=2.0**24, growth_interval=3)


class OnThisCpu(Trainer):  # type: ignore[misc,no-any-unimported]
    """accelerate refuses fp16 on a CPU, though torch computes it: this puts in what it puts in on CUDA."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.state._mixed_precision = "fp16"
        self.accelerator.native_amp = True
        self.accelerator.scaler = scaler()


class Scales(Watch):
    """The loss scale of each step, too."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[float] = []
        self.trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        self.scales.append(self.trainer.accelerator.scaler.get_scale())


def trainer_in_fp16(folder: str, workload: Workload, optimizer: str) -> Scales:
    from accelerate.state import AcceleratorState

    watch = Scales()
    try:
        watch.trainer = toys.make_trainer(
            toys.bert(), toys.features(workload), folder, kind=OnThisCpu, callbacks=[watch], optim=optimizer,
            learning_rate=1e-3, num_train_epochs=1,
        )  # fmt: skip
        watch.trainer.train()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # it is shared by all that come after
    return watch


def fp16(folder: str) -> Finding:
    workload = random_workload(128, 4, 24)
    fused, plain = (trainer_in_fp16(folder, workload, name) for name in ("adamw_torch_fused", "adamw_torch"))
    setup, task = toys.set_up(toys.bert(), workload, batch_size=8, learning_rate=1e-3)
    setup.state.scaler = scaler()
    setup.state.autocast = partial(torch.autocast, "cpu", dtype=torch.float16)
    setup.state.guard.sticky = False  # as for --precision fp16: an overflow is no divergence
    ours = [record.learning_rate for _, _, record in toys.our_steps(setup, task)]
    skipped = [i for i, moved in enumerate(fused.moved) if moved == 0]

    def draw(axes: Any) -> None:
        steps = range(1, len(fused.scales) + 1)
        axes.step(steps, fused.scales, where="mid", color=COLOURS[0], linewidth=2, label="loss scale (left)")
        axes.plot(
            [i + 1 for i in skipped], [fused.scales[i] for i in skipped], "x", color=COLOURS[3], markersize=11,
            markeredgewidth=3, label="overflow: nothing is learned",
        )  # fmt: skip
        axes.set_yscale("log", base=2)
        axes.set_xlabel("step that Trainer counts")
        axes.set_ylabel("loss scale")
        right = axes.twinx()
        for watch, name, colour, style in ((fused, "fused AdamW", 2, "--"), (plain, "plain AdamW", 4, ":")):
            rates = [1000 * rate for rate in watch.rates]
            right.plot(steps, rates, style, color=COLOURS[colour], linewidth=2, label=f"learning rate, {name} (right)")
        right.set_ylabel("learning rate, thousandths")
        right.set_ylim(0, 1.45)
        right.spines["right"].set_visible(True)
        lines = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="upper right", ncols=2, fontsize=9)

    return Finding(
        holds=len(skipped) > 0
        and len(fused.moved) == len(plain.moved) == len(ours)
        and plain.rates[-1] > fused.rates[-1] == ours[-1],
        said=f"{len(skipped)} of {len(fused.moved)} counted steps learned nothing; with plain AdamW the schedule ends at "
        f"{plain.rates[-1] / 1e-3:.0%}, not {fused.rates[-1] / 1e-3:.0%}",
        table=[
            ["step", "loss scale", "weights move by", "rate, fused AdamW", "plain AdamW", "Plainloop"],
            *(
                [str(i), f"2^{math.log2(scale):.0f}", f"{moved:.4f}" if moved else "overflow: 0", *(f"{r:.2e}" for r in rates)]
                for i, (scale, moved, *rates) in enumerate(
                    zip(fused.scales, fused.moved, fused.rates, plain.rates, ours, strict=True), start=1
                )
            ),
        ],
        draw=draw,
    )


# ------------------------------------------------------------------------------------------------------- half-weights


def half_weights(folder: str) -> Finding:
    workload = random_workload(160, 4, 24)
    toys.bert().to(torch.bfloat16).save_pretrained(f"{folder}/half")
    asked: dict[str, dict[str, Any]] = {
        "from_pretrained(path)": {},
        "with dtype=torch.float32, as here": {"dtype": torch.float32},
    }
    still, dtypes = [], []
    for arguments in asked.values():
        model = BertForSequenceClassification.from_pretrained(f"{folder}/half", **arguments)
        before = toys.parameters_of(model)
        toys.make_trainer(model, toys.features(workload), folder, learning_rate=2e-5, num_train_epochs=1).train()
        dtypes.append(str(model.dtype).removeprefix("torch."))
        still.append(float((toys.parameters_of(model) == before).float().mean()))

    def draw(axes: Any) -> None:
        names = [f"{name}\n({dtype})" for name, dtype in zip(asked, dtypes, strict=True)]
        bars = axes.bar(names, [100 * share for share in still], color=(COLOURS[3], COLOURS[0]))
        axes.bar_label(bars, fmt="%.1f %%")
        axes.set_ylabel("weights that 20 steps of Trainer\nhave left as they were, %")

    return Finding(
        holds=still[0] > 0.5 > still[1],
        said=f"A checkpoint in bf16 trains in bf16: {still[0]:.0%} of the weights never move at learning rate 2e-5",
        table=[["loaded by", "dtype", "weights that 20 steps never moved"]]
        + [[name, dtype, f"{share:.1%}"] for name, dtype, share in zip(asked, dtypes, still, strict=True)],
        draw=draw,
    )


LESSONS = [
    Lesson(
        "decay", "weight decay is off by default, and when on it spares norms and biases, which it knows by their names",
        ("engine/optimizer.py", '"weight_decay": config.weight_decay'),
        ("transformers/training_args.py", "weight_decay: float = field("), decay,
    ),
    Lesson(
        "schedule", "with warm-up the first step has the learning rate 0: its batch is read and not learned from",
        ("engine/loop.py", "state.schedule.step()"),
        ("transformers/optimization.py", "return float(current_step) / float(max(1, num_warmup_steps))"), schedule,
    ),
    Lesson(
        "fp16", "an fp16 step that overflows is counted all the same; whether the schedule moves, the optimizer decides",
        ("engine/loop.py", "state.scaler.step(state.optimizer)"),
        ("transformers/trainer.py", "if not self.accelerator.optimizer_step_was_skipped:"), fp16,
    ),
    Lesson(
        "half-weights", "from_pretrained takes the checkpoint's dtype: half-precision weights are trained in half precision",
        ("tasks/text.py", '"dtype": torch.float32'),
        ("transformers/modeling_utils.py", 'dtype = "auto"'), half_weights,
    ),
]  # fmt: skip
