"""What becomes of the gradient on its way to the optimizer: what it is divided by, clipping, and values that are not finite."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from bench.machine import ROOT
from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.data.tables import called
from engine.record.divergence import describe_first, first_bad_step

# ------------------------------------------------------------------------------------------------------- accumulation

CUTS = ((12, 1), (4, 3), (2, 6))  # the same 12 examples: rows per micro-batch, micro-batches per step


def accumulation(folder: str) -> Finding:
    workload = random_workload(12, 4, 24)
    theirs, ours = [], []
    for size, steps in CUTS:
        trainer = toys.make_trainer(
            toys.bert(), toys.features(workload), folder, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            num_train_epochs=1,
        )  # fmt: skip
        trainer.train()
        theirs.append(toys.steps_logged(trainer)[0])
        setup, task = toys.set_up(toys.bert(), workload, batch_size=size, accumulation_steps=steps)
        [(_, _, record)] = toys.our_steps(setup, task)
        ours.append({"loss": float(record.loss_sum / record.num_items), "grad_norm": float(record.grad_norm)})
    ratios = [line["grad_norm"] / theirs[0]["grad_norm"] for line in theirs]
    names = [f"{size} x {steps}" for size, steps in CUTS]

    def draw(axes: Any) -> None:
        both = {"Trainer": [line["grad_norm"] for line in theirs], "Plainloop": [line["grad_norm"] for line in ours]}
        toys.grouped_bars(axes, names, both, (COLOURS[3], COLOURS[0]))
        axes.set_xlabel("how the same 12 examples are cut (rows x micro-batches)")
        axes.set_ylabel("2-norm of the step's gradient")

    return Finding(
        holds=all(math.isclose(ratio, steps, rel_tol=1e-3) for ratio, (_, steps) in zip(ratios, CUTS, strict=True)),
        said=f"The same 12 examples: in {CUTS[-1][1]} pieces, Trainer's gradient is {ratios[-1]:.2f} times as large",
        table=[
            ["rows x micro-batches", "Trainer: loss", "gradient norm", "Plainloop: loss", "gradient norm"],
            *(
                [name, f"{a['loss']:.4f}", f"{a['grad_norm']:.4f}", f"{b['loss']:.4f}", f"{b['grad_norm']:.4f}"]
                for name, a, b in zip(names, theirs, ours, strict=True)
            ),
        ],
        draw=draw,
    )


# ---------------------------------------------------------------------------------------------------------- num-items


class OwnLoss(Trainer):  # type: ignore[misc,no-any-unimported]
    """The override that forums hand around: a loss of one's own, which takes its mean and leaves the rest to Trainer."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = toys.next_token_loss(outputs.logits, inputs["labels"], "mean")
        return (loss, outputs) if return_outputs else loss


class Gradients(TrainerCallback):  # type: ignore[misc,no-any-unimported]
    """The gradient that each step's optimizer gets."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(gradient_of(model))


def gradient_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.detach().flatten() for p in model.parameters() if p.grad is not None]).clone()


def mean_of_means(model: nn.Module, rows: toys.Rows, size: int) -> Tensor:
    """The usual loop: each micro-batch's mean loss, divided by the number of micro-batches."""
    pieces = [rows[i : i + size] for i in range(0, len(rows), size)]
    for piece in pieces:
        batch = toys.pad_labels(piece)
        (model(**batch).loss / len(pieces)).backward()
    return gradient_of(model)


def trainer_gradient(model: nn.Module, rows: toys.Rows, folder: str, kind: type[Trainer] = Trainer) -> Tensor:
    """Of one step over 8 rows, 2 x 4, not clipped."""
    watch = Gradients()
    toys.make_trainer(
        model, rows, folder, collate=toys.pad_labels, kind=kind, callbacks=[watch], per_device_train_batch_size=2,
        gradient_accumulation_steps=4, max_grad_norm=0.0, num_train_epochs=1,
    ).train()  # fmt: skip
    return watch.seen[0]


def our_gradient(model: nn.Module, workload: Workload) -> Tensor:
    """The same step of ours."""
    task = toys.NextToken(workload)
    setup, _ = toys.set_up(model, workload, task=task, batch_size=2, accumulation_steps=4, max_grad_norm=math.inf)
    seen: list[Tensor] = []
    setup.state.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient_of(model)))
    list(toys.our_steps(setup, task))
    return seen[0]


def num_items(folder: str) -> Finding:
    workload = random_workload(8, 3, 60)
    rows = toys.features(workload)
    exact = mean_of_means(toys.llama(), rows, len(rows))  # one batch: the mean over all tokens
    found = {
        "usual loop, loss / 4": mean_of_means(toys.llama(), rows, 2),
        "Trainer": trainer_gradient(toys.llama(), rows, folder),
        "Trainer, own compute_loss": trainer_gradient(toys.llama(), rows, folder, OwnLoss),
        "Plainloop": our_gradient(toys.llama(), workload),
    }
    gaps = {name: float((gradient - exact).norm() / exact.norm()) for name, gradient in found.items()}

    def draw(axes: Any) -> None:
        names = list(gaps)
        axes.barh(range(len(names)), [100 * gap for gap in gaps.values()], color=[COLOURS[i] for i in (1, 5, 3, 0)])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        for i, gap in enumerate(gaps.values()):
            axes.text(100 * gap, i, f" {100 * gap:.3g} %" if gap > 1e-5 else " 0 %", va="center")
        axes.margins(x=0.15)
        axes.set_xlabel("distance from the gradient of one batch of all 8 rows, % of its norm")

    own = float(found["Trainer, own compute_loss"].norm() / exact.norm())
    return Finding(
        holds=gaps["Trainer"] < 1e-4 and gaps["usual loop, loss / 4"] > 0.01 and own > 3,
        said=f"A compute_loss of one's own that ignores num_items_in_batch: a gradient {own:.1f} times as large",
        table=[["gradient of 8 rows, 2 x 4", "norm", "off by"], ["one batch of all rows", f"{exact.norm():.4f}", ""]]
        + [[name, f"{gradient.norm():.4f}", f"{gaps[name]:.1%}"] for name, gradient in found.items()],
        draw=draw,
    )


# ---------------------------------------------------------------------------------------------------------- class-name


def class_name(folder: str) -> Finding:
    lengths = (2, 8, 32)
    gpt2: list[float] = []
    llama: list[float] = []
    ours: list[float] = []
    for length in lengths:
        workload = random_workload(8, length, length)
        rows = toys.features(workload)
        for make, found in ((toys.gpt2, gpt2), (toys.llama, llama)):
            exact = mean_of_means(make(), rows, len(rows)).norm()
            found.append(float(trainer_gradient(make(), rows, folder).norm() / exact))
            if make is toys.gpt2:
                ours.append(float(our_gradient(make(), workload).norm() / exact))
    ratios = {"Trainer, GPT2LMHeadModel": gpt2, "Trainer, LlamaForCausalLM": llama, "Plainloop, GPT2LMHeadModel": ours}

    def draw(axes: Any) -> None:
        toys.lines(axes, lengths, ratios, ((3, "o", "-"), (1, "s", "-"), (0, "x", "--")))
        axes.set_ylim(0, 1.15)
        axes.set_xlabel("tokens in each row")
        axes.set_ylabel("norm of the gradient, true one = 1")
        axes.legend(frameon=False, loc="lower right")

    missing = [(length - 1) / length for length in lengths]
    return Finding(
        holds=all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(gpt2, missing, strict=True))
        and all(math.isclose(a, 1, rel_tol=1e-3) for a in (*llama, *ours)),
        said=f"GPT-2's class is not called ...ForCausalLM: with {lengths[1]} tokens a row, {gpt2[1]:.0%} of the true gradient",
        table=toys.in_columns("gradient norm (true: 1), tokens a row", lengths, ratios, "{:.4f}"),
        draw=draw,
    )


# ----------------------------------------------------------------------------------------------------------- clipping


def clipping(folder: str) -> Finding:
    workload = random_workload(96, 4, 24)
    watch = Gradients()
    trainer = toys.make_trainer(toys.bert(), toys.features(workload), folder, callbacks=[watch], num_train_epochs=1)
    trainer.train()
    logged = [line["grad_norm"] for line in toys.steps_logged(trainer)]
    used = [float(gradient.norm()) for gradient in watch.seen]
    recorded = [step["grad_norm"] for step in json.loads((ROOT / "bench/results/parity-imdb.json").read_text())["steps"]]
    real = sum(norm > 1 for norm in recorded)

    def draw(axes: Any) -> None:
        steps = range(1, len(logged) + 1)
        axes.plot(steps, logged, color=COLOURS[1], marker="o", linestyle="--", linewidth=2, label="in Trainer's log")
        axes.plot(steps, used, color=COLOURS[0], marker="s", linewidth=2, label="that the optimizer gets")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("2-norm of the gradient")
        axes.legend(frameon=False)

    clipped = sum(norm > 1 for norm in logged)
    return Finding(
        holds=clipped > 0 and all(math.isclose(b, min(a, 1.0), rel_tol=1e-4) for a, b in zip(logged, used, strict=True)),
        said=f"Not asked for: {clipped} of {len(logged)} gradients were cut down to norm 1; the log shows them uncut",
        table=[
            ["", "steps", "clipped", "largest norm in the log", "largest norm used"],
            ["this toy, Trainer's defaults", str(len(logged)), str(clipped), f"{max(logged):.2f}", f"{max(used):.2f}"],
            ["MiniLM on IMDb, as recorded", str(len(recorded)), str(real), f"{max(recorded):.2f}", "1.00"],
        ],
        draw=draw,
    )


# ---------------------------------------------------------------------------------------------------------------- nan


class Regression(toys.Classes):
    """Predict a number; the loss is the squared error."""

    def __init__(self, workload: Workload, labels: list[float]):
        super().__init__(workload)
        self.labels = labels

    def collate(self, rows: Any, layout: Layout) -> Batch:
        batch = super().collate(rows, layout)
        labels = torch.tensor([self.labels[int(row["labels"])] for row in rows])  # the toy's "label" is the row's number
        return Batch(**{**vars(batch), "targets": {"labels": labels}})

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.mse_loss(outputs.logits.squeeze(-1).float(), batch.targets["labels"], reduction="sum")


def with_a_missing_label(num_rows: int, missing: int) -> tuple[Workload, list[float]]:
    """Rows with a number each, one of which is NaN, as an empty cell of a table becomes."""
    workload = random_workload(num_rows, 4, 24)
    labels = [float(value) for value in workload.labels]
    labels[missing] = math.nan
    return Workload(workload.ids, workload.offsets, torch.arange(num_rows).numpy(), workload.name), labels


class Finite(TrainerCallback):  # type: ignore[misc,no-any-unimported]
    """Are all weights finite after each step?"""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(bool(toys.parameters_of(model).isfinite().all()))


def nan(folder: str) -> Finding:
    workload, labels = with_a_missing_label(64, missing=11)
    rows = [row | {"labels": labels[row["labels"]]} for row in toys.features(workload)]
    watch = Finite()
    trainer = toys.make_trainer(toys.bert(1), rows, folder, callbacks=[watch], num_train_epochs=1)
    trainer.train()
    log = toys.steps_logged(trainer)
    logged = [line["loss"] for line in log]
    setup, task = toys.set_up(toys.bert(1), workload, task=Regression(workload, labels), batch_size=8, learning_rate=5e-5)
    steps = list(toys.our_steps(setup, task))
    records = [(at, [key for batch in batches for key in batch.keys], record) for at, batches, record in steps]
    message = describe_first([found for found in [first_bad_step(records, scaled=False)] if found], partial(called, None))
    ours = [float(record.loss_sum / record.num_items) for _, _, record in steps]
    intact = bool(toys.parameters_of(setup.state.model).isfinite().all())
    bad = next(i for i, loss in enumerate(ours) if not math.isfinite(loss))

    def draw(axes: Any) -> None:
        numbers = range(1, len(logged) + 1)
        axes.axvspan(bad + 1, len(logged) + 0.3, color=COLOURS[7], alpha=0.35, label="Trainer's weights are NaN")
        axes.plot(numbers, logged, color=COLOURS[3], marker="o", linestyle="--", linewidth=2, label="loss in Trainer's log")
        axes.plot(range(1, bad + 1), ours[:bad], color=COLOURS[0], marker="s", linewidth=2, label="Plainloop, which stops here")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (squared error)")
        axes.legend(frameon=False)

    return Finding(
        holds=all(map(math.isfinite, logged)) and not watch.seen[-1] and intact,
        said=f"One missing label at step {bad + 1}: all weights NaN, and the loss in the log goes to {logged[-1]:g}",
        table=[
            ["step", "Trainer's log: loss", "grad_norm", "its weights", "Plainloop's loss"],
            *(
                [str(i + 1), f"{line['loss']:.4f}", f"{line['grad_norm']:.2f}", "finite" if ok else "NaN",
                 f"{loss:.4f}" if i < bad else "stopped, weights finite" if i == bad else ""]
                for i, (line, ok, loss) in enumerate(zip(log, watch.seen, ours, strict=True))
            ),
        ],
        draw=draw,
        note=f"Plainloop says: {message}",
    )  # fmt: skip


LESSONS = [
    Lesson(
        "accumulation", "gradient accumulation multiplies the gradient of BERT's heads",
        ("engine/loop.py", "state.scaler.scale(loss / divisor).backward()"),
        ("transformers/trainer.py", "self.model_accepts_loss_kwargs = any("), accumulation,
    ),
    Lesson(
        "num-items", "what the loss is divided by hangs on an argument that a compute_loss of one's own may ignore",
        ("engine/loop.py", "num_items = world.sum("),
        ("transformers/trainer.py", "self.model_accepts_loss_kwargs and num_items_in_batch is not None"), num_items,
    ),
    Lesson(
        "class-name", "the items of a language model are counted by the name of its class: GPT-2's one too many in each row",
        ("engine/loop.py", "sum(batch.num_items for batch in micro_batches)"),
        ("transformers/trainer.py", "self._loss_shifts_labels = LOSS_MAPPING.get("), class_name,
    ),
    Lesson(
        "clipping", "gradients are clipped at norm 1 unless one says otherwise, and logged as they were before",
        ("engine/loop.py", "grad_norm = full_tensor(clip_grad_norm_("),
        ("transformers/training_args.py", "max_grad_norm: float = field("), clipping,
    ),
    Lesson(
        "nan", "a loss that is NaN is replaced in the log, while the weights become NaN",
        ("engine/optimizer.py", "self.diverged = self.diverged |"),
        ("transformers/trainer.py", "self._tr_loss += self._tr_loss / (1 +"), nan,
    ),
]  # fmt: skip
