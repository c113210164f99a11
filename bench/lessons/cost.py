"""What a step costs beyond its work: padding, and reads that make the host wait for the device."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, of_rows, padding_tokenizer, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from engine.errors import ModelError
from engine.installed import install
from tasks.offline import packaged_minilm
from tasks.samples import yelp

# ------------------------------------------------------------------------------------------------------------ padding

LIMIT, NUM_ROWS, BATCH = 256, 8, 4


class Timed(Trainer):  # type: ignore[misc,no-any-unimported]
    """Keeps the seconds and the shape of each step's forward and backward pass."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        began = time.perf_counter()
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        self.taken = [*getattr(self, "taken", []), (time.perf_counter() - began, inputs["input_ids"].numel())]
        return loss


def minilm() -> str:
    path = packaged_minilm()
    if path is None:
        raise ModelError(f"lesson padding needs a real model: {install('offline', 'bench')}")
    return path


def reviews(path: str) -> Workload:
    """Reviews of the embedded sample in MiniLM's tokens."""
    kept = yelp.generate_reviews(NUM_ROWS, 1)
    ids = AutoTokenizer.from_pretrained(path)([r.text for r in kept], truncation=True, max_length=LIMIT)["input_ids"]
    return of_rows(ids, [int(r.stars > 3) for r in kept], "reviews")


def train_minilm(path: str, workload: Workload, folder: str, collate: Any) -> tuple[float, int]:
    """An epoch of two steps with Trainer: seconds of the second's forward and backward (the first warms up), and all tokens."""
    trainer = toys.make_trainer(
        model_from(path), toys.features(workload), folder, kind=Timed, collate=collate, per_device_train_batch_size=BATCH,
        num_train_epochs=1,
    )  # fmt: skip
    trainer.train()
    return trainer.taken[-1][0], sum(tokens for _, tokens in trainer.taken)


def model_from(path: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    return model


def padding(folder: str) -> Finding:
    path = minilm()
    workload = reviews(path)
    real = int(workload.lengths.sum())
    to_the_limit = DataCollatorWithPadding(padding_tokenizer(), padding="max_length", max_length=LIMIT)
    found = {
        'Trainer, padding="max_length"': train_minilm(path, workload, folder, to_the_limit),
        "Trainer, to the longest": train_minilm(path, workload, folder, DataCollatorWithPadding(padding_tokenizer())),
    }
    setup, task = toys.set_up(
        model_from(path), workload, task=toys.Classes(workload, LIMIT), batch_size=BATCH, batching="packed"
    )  # fmt: skip
    tokens = 0
    for _, [batch], _ in toys.our_steps(setup, task):
        tokens += batch.executed_tokens
        spent = setup.state.clock.take()  # of this step; the last one's stays
    found["Plainloop, packed"] = (spent["forward"] + spent["backward"], tokens)

    def draw(axes: Any) -> None:
        names = list(found)
        waste = [n - real for _, n in found.values()]
        axes.barh(range(3), [real] * 3, color=COLOURS[0], label="tokens of the reviews")
        axes.barh(range(3), waste, left=real, color=COLOURS[1], hatch="//", edgecolor="white", label="padding")
        for i, (seconds, n) in enumerate(found.values()):
            axes.text(n, i, f" {seconds:.1f} s", va="center")
        axes.set_yticks(range(3), names)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(f"tokens that MiniLM works on for {NUM_ROWS} reviews (seconds: second of two steps)")
        axes.legend(frameon=False, loc="lower right")

    (slow, many), _, (quick, few) = found.values()
    return Finding(
        holds=many > 1.3 * real and few == real and slow > quick,
        said=f'padding="max_length": {many / real:.1f} times the tokens; {slow:.1f} s a step, {quick:.1f} s without padding',
        table=[[f"{NUM_ROWS} reviews, 2 steps", "tokens worked on", "padding", "second step"]]
        + [[name, str(n), f"{1 - real / n:.0%}", f"{seconds:.2f} s"] for name, (seconds, n) in found.items()],
        draw=draw,
    )


# --------------------------------------------------------------------------------------------------------- host-reads


class Reads(TorchDispatchMode):
    """Counts the values that the program asks a tensor for: on a GPU it waits for each until the device has got there.

    ``inside``: those of the model's own forward pass (transformers looks into the attention mask).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.inside = 0
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self.inside -= self.count

    def _leave(self, *_: Any) -> None:
        self.inside += self.count

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def host_reads(folder: str) -> Finding:
    workload = random_workload(128, 4, 24)
    micro_batches = 128 // 8
    found = {}
    for name, is_filtered in (("Trainer", True), ("Trainer, logging_nan_inf_filter=False", False)):
        model = toys.bert()
        trainer = toys.make_trainer(
            model, toys.features(workload), folder, num_train_epochs=1, logging_steps=500, gradient_accumulation_steps=4,
            logging_nan_inf_filter=is_filtered,
        )  # fmt: skip
        with Reads(model) as reads:
            trainer.train()
        found[name] = (reads.count, reads.inside)
    model = toys.bert()
    setup, task = toys.set_up(model, workload, batch_size=8, accumulation_steps=4)
    with Reads(model) as reads:
        list(toys.our_steps(setup, task))
    found["Plainloop"] = (reads.count, reads.inside)
    loops = {name: total - inside for name, (total, inside) in found.items()}

    def draw(axes: Any) -> None:
        axes.barh(range(3), loops.values(), color=(COLOURS[3], COLOURS[1], COLOURS[0]))
        axes.set_yticks(range(3), [name.replace(", ", ",\n") for name in loops])
        axes.invert_yaxis()
        for i, n in enumerate(loops.values()):
            axes.text(n, i, f" {n}", va="center")
        axes.margins(x=0.1)
        axes.set_xlabel("values read from tensors in 4 steps of 4 micro-batches, none of them logged")

    asked = loops["Trainer"] - loops["Trainer, logging_nan_inf_filter=False"]
    return Finding(
        holds=asked == 2 * micro_batches and loops["Plainloop"] < micro_batches,
        said=f"Trainer asks every micro-batch twice whether its loss is finite: {asked} reads in 4 steps",
        table=[["4 steps of 4 micro-batches", "reads in all", "inside the model", "by the loop"]]
        + [[name, str(total), str(inside), str(total - inside)] for name, (total, inside) in found.items()],
        draw=draw,
    )


LESSONS = [
    Lesson(
        "padding", "how much of the work is padding: it is neither logged nor counted",
        ("engine/data/collate.py", "packed = np.full("),
        ("transformers/trainer.py", "DataCollatorWithPadding(processing_class)"), padding,
    ),
    Lesson(
        "host-reads", "the loss of every micro-batch is read by the host, which waits for the device",
        ("engine/record/run.py", "self._pending.loss_sum = float(self._loss_sum)"),
        ("transformers/trainer.py", "and (torch.isnan(tr_loss_step) or torch.isinf(tr_loss_step))"), host_reads,
    ),
]  # fmt: skip
