"""Which model is left, and what is said of it: the best, the last, the one behind a resume, the one behind an out-of-memory."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, of_rows, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from bench.lessons.randomness import numbered
from engine.artifacts.result import Result
from engine.config import TrainConfig
from engine.console import notes_heard_by
from engine.data.batch import Batch
from engine.fit import fit
from engine.record.figures import Evaluation
from engine.record.progress import BestSoFar


def noisy(num_rows: int, seed: int, flipped: float = 0.2) -> Workload:
    """Rows whose first token decides their class. A share is labelled wrongly, and can only be learned by heart."""
    drawn = random_workload(num_rows, 6, 16, seed=seed)
    is_flipped = np.random.default_rng(seed).random(num_rows) < flipped
    labels = (drawn.ids[drawn.offsets[:-1]] < 52) ^ is_flipped
    return of_rows(np.split(drawn.ids, drawn.offsets[1:-1]), labels, drawn.name)


class Kept(toys.Classes):
    """A task that a whole run can be made of, with a model directory at its end."""

    def __init__(self, model: nn.Module, train: Workload, held_out: Workload | None = None):
        super().__init__(train)
        self.model, self.held_out = model, held_out

    def examples(self) -> dict[str, Any]:
        return super().examples() | ({} if self.held_out is None else {"eval": self.held_out.examples()})

    def build_model(self) -> nn.Module:
        return self.model

    def save(self, model: nn.Module, directory: Path) -> None:
        model.save_pretrained(directory)  # type: ignore[operator]


def our_run(task: Kept, folder: str, **settings: Any) -> Result:
    """A whole run of ours, without its lines on the terminal."""
    plain: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batching": "padded", "output_dir": f"{folder}/ours"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return fit(task, TrainConfig(**(plain | settings)))


def evaluations(trainer: Trainer, name: str) -> list[float]:
    """A figure of each evaluation that was logged."""
    return [line[f"eval_{name}"] for line in trainer.state.log_history if f"eval_{name}" in line and "step" in line]


# --------------------------------------------------------------------------------------------------------- last-model


LEARNED: dict[str, Any] = {"num_train_epochs": 8, "learning_rate": 2e-3, "per_device_train_batch_size": 16}


def last_model(folder: str) -> Finding:
    train, held_out = noisy(192, 0), noisy(192, 1)
    trainer = toys.make_trainer(
        toys.bert(), toys.features(train), folder, evaluation=toys.features(held_out), eval_strategy="epoch", **LEARNED
    )
    trainer.train()
    losses = evaluations(trainer, "loss")
    kept = float(trainer.evaluate()["eval_loss"])
    ours = our_run(
        Kept(toys.bert(), train, held_out), folder, epochs=LEARNED["num_train_epochs"], learning_rate=LEARNED["learning_rate"],
        batch_size=16, weight_decay=0.0,
    ).metrics["eval_loss"]  # fmt: skip
    best = 1 + int(np.argmin(losses))

    def draw(axes: Any) -> None:
        epochs = range(1, len(losses) + 1)
        axes.plot(epochs, losses, color=COLOURS[5], linewidth=2, label="each epoch's evaluation")
        axes.plot(epochs[-1], kept, "X", color=COLOURS[3], markersize=14, label=f"left by Trainer: {kept:.3f}")
        axes.plot(best, ours, "o", color=COLOURS[0], markersize=13, fillstyle="none", markeredgewidth=2.5,
                  label=f"left by Plainloop: {ours:.3f}")  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss on held-out rows (nats)")
        axes.legend(frameon=False)

    return Finding(
        holds=kept > 1.1 * min(losses) and abs(ours - min(losses)) < 0.05 * min(losses),
        said=f"Epoch {best} of {len(losses)} is the best, the last is left: a loss of {kept:.2f} in place of {min(losses):.2f}",
        table=[["", "loss on held-out rows"], [f"best of {len(losses)} evaluations (epoch {best})", f"{min(losses):.4f}"],
               ["left by Trainer", f"{kept:.4f}"], ["left by Plainloop", f"{ours:.4f}"]],
        draw=draw,
        note="load_best_model_at_end=True makes Trainer go back; it wants saves wherever there are evaluations.",
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- best-metric


def error_rate(prediction: Any) -> dict[str, float]:
    """The share of rows that are wrong: the lower, the better."""
    return {"error_rate": float((prediction.predictions.argmax(-1) != prediction.label_ids).mean())}


def best_metric(folder: str) -> Finding:
    train, held_out = noisy(192, 0), noisy(192, 1)
    trainer = toys.make_trainer(
        toys.bert(), toys.features(train), folder, evaluation=toys.features(held_out), eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="error_rate", compute_metrics=error_rate,
        **LEARNED,
    )  # fmt: skip
    trainer.train()
    rates = evaluations(trainer, "error_rate")
    kept = float(trainer.evaluate()["eval_error_rate"])
    count = BestSoFar("error_rate", None, lower_is_better=True)
    for step, rate in enumerate(rates, start=1):
        count.count(step, Evaluation({"error_rate": rate}, len(held_out.labels), 1, 0.0))
    assert count.best is not None
    theirs, ours = 1 + rates.index(kept), count.best.step

    def draw(axes: Any) -> None:
        colours = [COLOURS[3] if i == theirs else COLOURS[0] if i == ours else COLOURS[5] for i in range(1, len(rates) + 1)]
        axes.bar(range(1, len(rates) + 1), rates, color=colours)
        for i, rate in enumerate(rates, start=1):
            who = "\nTrainer's best" if i == theirs else "\nbest" if i == ours else ""
            axes.text(i, rate, f"{rate:.1%}{who}", ha="center", va="bottom", fontsize=9)
        axes.margins(y=0.15)
        axes.set_xlabel("epoch")
        axes.set_ylabel("error_rate on held-out rows (less is better)")

    return Finding(
        holds=kept == max(rates) > min(rates) == count.best.value,
        said=f'metric_for_best_model="error_rate" keeps the worst model: {kept:.0%} wrong, and {min(rates):.0%} could be had',
        table=[["", "epoch", "error rate"], ["kept by Trainer as its best", str(theirs), f"{kept:.4f}"],
               ["best, and kept by Plainloop", str(ours), f"{count.best.value:.4f}"]],
        draw=draw,
        note="greater_is_better=False says it; without it, all that does not end in loss is taken for better when larger.",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- train-loss


class Interrupted(Exception):
    """The run ends here, as by a kill."""


class Interrupting(Kept):
    """Ends the run at the beginning of its third epoch."""

    num_losses = 0

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        self.num_losses += 1
        if self.num_losses > 2 * 192 // 16:
            raise Interrupted
        return super().loss(outputs, batch)


def train_loss(folder: str) -> Finding:
    train = noisy(192, 0)
    arguments: dict[str, Any] = {**LEARNED, "num_train_epochs": 4, "save_strategy": "epoch"}
    whole = toys.make_trainer(toys.bert(), toys.features(train), folder, **arguments)
    reported = whole.train().training_loss
    half = f"{folder}/checkpoint-{whole.state.max_steps // 2}"
    resumed = toys.make_trainer(toys.bert(), toys.features(train), folder, **arguments)
    again = resumed.train(resume_from_checkpoint=half).training_loss
    settings: dict[str, Any] = {"learning_rate": 2e-3, "batch_size": 16, "weight_decay": 0.0, "epochs": 4}
    one = our_run(Kept(toys.bert(), train), f"{folder}/whole", **settings).metrics["train_loss"]
    with contextlib.suppress(Interrupted):
        our_run(Interrupting(toys.bert(), train), f"{folder}/halves", **settings)
    two = our_run(Kept(toys.bert(), train), f"{folder}/halves", resume=True, **settings).metrics["train_loss"]
    found = {"never stopped": [reported, one], "stopped in the middle and resumed": [again, two]}

    def draw(axes: Any) -> None:
        toys.grouped_bars(axes, ["Trainer", "Plainloop"], found, (COLOURS[5], COLOURS[3]), "{:.3f}")
        axes.set_ylabel("train_loss of 4 epochs (nats)")
        axes.margins(y=0.35)  # for the legend

    return Finding(
        holds=abs(again / reported - 1) > 0.1 and abs(two / one - 1) < 1e-6,
        said=f"The same training, resumed after half: train_loss says {again:.3f} in place of {reported:.3f}",
        table=toys.in_columns("", ["Trainer", "Plainloop"], found, "{:.4f}"),
        draw=draw,
    )


# --------------------------------------------------------------------------------------------------------- auto-batch


MEMORY = 170  # tokens of a micro-batch, padding too, that "fit"


class Short(Trainer):  # type: ignore[misc,no-any-unimported]
    """Trainer where memory is short: a larger micro-batch fails, as CUDA's do. Keeps the rows of each one that did not."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.done: list[list[int]] = getattr(self, "done", [])
        if inputs["input_ids"].numel() > MEMORY:
            raise RuntimeError("CUDA out of memory.")
        self.done.append(inputs["input_ids"][:, 0].tolist())
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss


def short_of_memory(model: nn.Module) -> nn.Module:
    """The same for our loop."""

    def fail(module: nn.Module, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    return model


def auto_batch(folder: str) -> Finding:
    workload = late_and_long()
    rows = toys.features(workload)
    trainer = toys.make_trainer(
        toys.bert(), rows, folder, kind=Short, auto_find_batch_size=True, num_train_epochs=1, per_device_train_batch_size=8,
        learning_rate=1e-3,
    )  # fmt: skip
    trainer.train()
    ours, weights = [], []
    for make in (lambda: short_of_memory(toys.bert()), toys.bert):
        setup, task = toys.set_up(make(), workload, batch_size=8, learning_rate=1e-3)
        with notes_heard_by(lambda _: None):
            ours.append([[row for b in batches for _, row in b.keys] for _, batches, _ in toys.our_steps(setup, task)])
        weights.append(toys.parameters_of(setup.state.model))
    apart = float((weights[0] - weights[1]).abs().max())
    times = {name: times_of(steps) for name, steps in (("Trainer", trainer.done), ("Plainloop", ours[0]))}
    sizes = [len(batch) for batch in trainer.done]
    at = next((i for i, size in enumerate(sizes) if size < 8), len(sizes))  # steps before memory ran out
    smaller = max(sizes[at:], default=8)

    def draw(axes: Any) -> None:
        axes.bar(range(1, len(sizes) + 1), sizes, color=[COLOURS[5]] * at + [COLOURS[3]] * (len(sizes) - at))
        axes.axvline(at + 0.5, ymax=0.85, color="#000000", linestyle=":")
        axes.text(at + 0.6, 9.2, "out of memory: epoch begun again,\nthe weights are those after step " + str(at), va="center")
        axes.axhline(8, color=COLOURS[0], linestyle="--", label="Plainloop: 8 rows in each step, cut where they do not fit")
        axes.set_ylim(0, 12.5)
        axes.set_xlabel("optimizer step that changed Trainer's weights")
        axes.set_ylabel("rows in it")
        axes.legend(frameon=False, loc="upper left")

    twice = times["Trainer"].count(2)
    return Finding(
        holds=twice == 8 * at > 0 and set(times["Plainloop"]) == {1} and apart < 1e-3 and smaller == 7,
        said=f"Out of memory at step {at + 1}: the epoch begins again, {smaller} rows a step, {twice} of 64 rows count twice",
        table=[["64 rows, one epoch", "steps", "rows in a step", "trained on once", "twice"]]
        + [
            [name, steps, of_step, *(str(times[who].count(n)) for n in (1, 2))]
            for who, name, steps, of_step in (
                ("Trainer", "Trainer, auto_find_batch_size", str(len(sizes)), f"8, then {smaller}"),
                ("Plainloop", "Plainloop", str(len(ours[0])), "8"),
            )
        ],
        draw=draw,
        note=f"Plainloop's weights differ from those with enough memory by {apart:.0e} at most: sums in another order.",
    )  # fmt: skip


def times_of(steps: list[list[int]]) -> list[int]:
    """How often each of 64 rows was trained on."""
    found: list[int] = np.bincount(np.concatenate(steps), minlength=64).tolist()
    return found


def late_and_long() -> Workload:
    """Rows that begin with their number; one that the sixth batch has is so long that this batch does not fit."""
    drawn = numbered(64, 4, 18)
    lengths = drawn.lengths
    order = torch.randperm(64, generator=torch.Generator().manual_seed(42)).tolist()
    rows = np.split(drawn.ids, drawn.offsets[1:-1])
    rows[order[40]] = np.resize(rows[order[40]], 24)
    assert lengths.max() * 8 <= MEMORY < 24 * 8 and MEMORY >= 24 * 7
    return of_rows(rows, drawn.labels, drawn.name)


# ---------------------------------------------------------------------------------------------------- kept-checkpoints


WAYS: dict[str, dict[str, Any]] = {  # of asking Trainer for few checkpoints
    "save_total_limit=2": {"save_total_limit": 2},
    "=1, load_best_model_at_end": {"save_total_limit": 1, "load_best_model_at_end": True},
    "=2, load_best_model_at_end": {"save_total_limit": 2, "load_best_model_at_end": True},
    "=3, load_best_model_at_end": {"save_total_limit": 3, "load_best_model_at_end": True},
}


class Counting(TrainerCallback):  # type: ignore[misc,no-any-unimported]
    """The most checkpoints that there were at once, after old ones were deleted."""

    most = 0

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.most = max(self.most, len([*Path(args.output_dir).glob("checkpoint-*")]))


def epochs_on_disk(folder: str, train: Workload) -> list[int]:
    """Which epochs' checkpoints there are; a name ends with the step's number, and a step has 16 rows."""
    steps = sorted(int(path.name.rpartition("-")[2]) for path in Path(folder).glob("*-[0-9]*"))
    return [step * 16 // len(train.labels) for step in steps]


def kept_checkpoints(folder: str) -> Finding:
    train, held_out = noisy(192, 0), noisy(192, 1)
    found: dict[str, list[int]] = {}
    most, losses = [], []
    for i, (name, asked) in enumerate(WAYS.items()):
        arguments = {"eval_strategy": "epoch", "save_strategy": "epoch", **LEARNED, **asked}
        trainer = toys.make_trainer(
            toys.bert(), toys.features(train), f"{folder}/{i}", evaluation=toys.features(held_out),
            callbacks=[watch := Counting()], **arguments,
        )  # fmt: skip
        trainer.train()
        losses = evaluations(trainer, "loss")
        most.append(watch.most)
        found[name] = epochs_on_disk(f"{folder}/{i}", train)
    our_run(
        Kept(toys.bert(), train, held_out), folder, epochs=len(losses), learning_rate=LEARNED["learning_rate"], batch_size=16,
        weight_decay=0.0,
    )  # fmt: skip
    found["Plainloop, --keep-checkpoints 2"] = epochs_on_disk(f"{folder}/ours/checkpoints", train)
    best, last = 1 + int(np.argmin(losses)), len(losses)
    forgetful, *others = found.values()

    def draw(axes: Any) -> None:
        for i, epochs in enumerate(found.values()):
            axes.plot(range(1, last + 1), [i] * last, "s", color=COLOURS[5], fillstyle="none", markersize=13)
            axes.plot(epochs, [i] * len(epochs), "s", color=COLOURS[0 if best in epochs else 3], markersize=13)
        axes.axvline(best, color="#000000", linestyle=":", zorder=0)
        axes.text(best + 0.1, -0.75, "the best evaluation", va="center")
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.5, -1.1)
        axes.set_xlabel("epoch; filled: its checkpoint is on the disk at the end")

    kept = [[best], [best, last], [best, last - 1, last], [best, last - 1, last]]
    return Finding(
        holds=best < last - 2 and forgetful == [last - 1, last] and others == kept and most[1] == 2,
        said=f"Epoch {best} of {last} is the best, and save_total_limit=2 has deleted it, unless it is asked for",
        table=[["", "epochs on the disk", "the best among them"]]
        + [[name, ", ".join(map(str, epochs)), "yes" if best in epochs else "no"] for name, epochs in found.items()],
        draw=draw,
        note=f"A limit of 1 had {most[1]} while it trained, the best and the newest; at the end the newest is deleted, from "
        "which training could go on. Plainloop keeps the best beside the newest two.",
    )


LESSONS = [
    Lesson(
        "last-model", "the last model is kept and not the best one, unless load_best_model_at_end is set",
        ("engine/resume.py", "if best is None or best.step == last:"),
        ("transformers/training_args.py", "load_best_model_at_end: bool = field("), last_model,
    ),
    Lesson(
        "best-metric", "what is better is guessed from the metric's name: an error rate is taken for better when larger",
        ("engine/record/progress.py", "return value < than if self.lower_is_better else value > than"),
        ("transformers/training_args.py", 'not self.metric_for_best_model.endswith("loss")'), best_metric,
    ),
    Lesson(
        "kept-checkpoints",
        "save_total_limit deletes the best checkpoint, unless the best is asked for; 1 then deletes the last",
        ("engine/checkpoint/store.py", "kept |= {step, verified[step]}"),
        ("transformers/trainer_utils.py", "num_to_keep = max(save_total_limit, len(protected))"), kept_checkpoints,
    ),
    Lesson(
        "train-loss", "train_loss after a resume is of the steps since then, and not of the run",
        ("engine/fit.py", '"train_loss": run.total.loss'),
        ("transformers/trainer.py", "num_steps_trained = self.state.global_step - self._initial_global_step"), train_loss,
    ),
    Lesson(
        "auto-batch", "auto_find_batch_size begins the epoch again with fewer rows a step, and keeps the weights it has",
        ("engine/memory/retry.py", "return [piece for keys in parts for piece in"),
        ("accelerate/utils/memory.py", "batch_size = int(batch_size * 0.9)"), auto_batch,
    ),
]  # fmt: skip
