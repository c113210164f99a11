"""Where random numbers come from: the head, the order of the rows, dropout, and what resuming brings back of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, Trainer

from bench.contest.pictures import COLOURS, STYLES
from bench.contest.workload import Workload, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from engine.loader import eval_loader
from engine.record.evaluate import evaluate

# --------------------------------------------------------------------------------------------------------------- seed


def new_process() -> None:
    """Torch's generator as a program finds it at its start: seeded by chance."""
    torch.seed()


class FromPretrained(toys.Classes):
    """Builds its model itself, a body from disk with a new head, as tasks do."""

    folder: str

    def build_model(self) -> nn.Module:
        model: nn.Module = load(self.folder)
        return model


def load(folder: str) -> BertForSequenceClassification:
    model: BertForSequenceClassification = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model


def seed(folder: str) -> Finding:
    workload = random_workload(96, 4, 24)
    body = f"{folder}/body"
    toys.bert().bert.save_pretrained(body)
    theirs, ours, heads = [], [], []
    for _ in range(3):
        new_process()
        model = load(body)
        heads.append(model.classifier.weight.detach().clone())
        trainer = toys.make_trainer(
            model,
            toys.features(workload),
            folder,
            seed=42,
            learning_rate=1e-3,
            num_train_epochs=1,
            per_device_train_batch_size=8,
        )
        trainer.train()
        theirs.append([line["loss"] for line in toys.steps_logged(trainer)])
        new_process()
        task = FromPretrained(workload)
        task.folder = body
        setup, _ = toys.set_up(None, workload, task=task, seed=42, learning_rate=1e-3, batch_size=8)
        ours.append([float(record.loss_sum / record.num_items) for _, _, record in toys.our_steps(setup, task)])

    def draw(axes: Any) -> None:
        for i, losses in enumerate(theirs):
            axes.plot(range(1, len(losses) + 1), losses, linestyle=STYLES[i], color=COLOURS[1], linewidth=2,
                      label="Trainer, seed=42, started three times" if i == 0 else None)  # fmt: skip
        for i, losses in enumerate(ours):
            axes.plot(range(1, len(losses) + 1), losses, "osx"[i], markersize=11 - 3 * i, fillstyle="none",
                      color=COLOURS[0], label="Plainloop, --seed 42, started three times" if i == 0 else None)  # fmt: skip
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("mean loss of the batch (nats)")
        axes.legend(frameon=False)

    first = [losses[0] for losses in theirs]
    return Finding(
        holds=len(set(first)) == 3 and not torch.equal(heads[0], heads[1]) and ours[0] == ours[1] == ours[2],
        said=f"seed=42, three starts, three heads: first losses {', '.join(f'{loss:.3f}' for loss in first)}",
        table=[["start", "Trainer: first loss", "last loss", "Plainloop: first loss", "last loss"]]
        + [
            [str(i + 1), *(f"{v:.6f}" for v in (a[0], a[-1], b[0], b[-1]))]
            for i, (a, b) in enumerate(zip(theirs, ours, strict=True))
        ],
        draw=draw,
    )


# -------------------------------------------------------------------------------------------------------------- order


def numbered(num_rows: int, shortest: int = 4, longest: int = 24) -> Workload:
    """Rows that begin with a token of their own, by which they are known in a batch."""
    made = random_workload(num_rows, shortest, longest)
    made.ids[made.offsets[:-1]] = range(num_rows)
    return made


class Seen(Trainer):  # type: ignore[misc,no-any-unimported]
    """Keeps the rows that it trains on, in order."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.rows = [*getattr(self, "rows", []), *inputs["input_ids"][:, 0].tolist()]
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss


def order(folder: str) -> Finding:
    workload = numbered(48)
    rows = {}
    for number in (42, 43):
        trainer = toys.make_trainer(toys.bert(), toys.features(workload), folder, kind=Seen, seed=number, num_train_epochs=2)
        trainer.train()
        rows[number] = trainer.rows
    setup, _ = toys.set_up(toys.bert(), workload, seed=42, epochs=2)
    second, first = rows[42][48:], rows[43][:48]
    ours = setup.data.plan.order(1).tolist()

    def draw(axes: Any) -> None:
        axes.plot(range(1, 49), second, "o", color=COLOURS[0], markersize=10, fillstyle="none", label="seed=42, second epoch")
        axes.plot(range(1, 49), first, "x", color=COLOURS[3], markersize=6, label="seed=43, first epoch")
        axes.set_xlabel("place in the epoch")
        axes.set_ylabel("row of the data")
        axes.set_ylim(-2, 58)
        axes.legend(frameon=False, loc="upper center", ncols=2)

    same = sum(a == b for a, b in zip(second, first, strict=True))
    return Finding(
        holds=second == first and rows[42][:48] != second and ours == second,
        said=f"Seeds 42 and 43 share an order: {same} of 48 rows stand in the same place, an epoch apart",
        table=[
            ["", "the first rows"],
            *(
                [name, " ".join(f"{row:>2}" for row in found[:16])]
                for name, found in (
                    ("Trainer, seed 42, epoch 1", rows[42]), ("Trainer, seed 42, epoch 2", second),
                    ("Trainer, seed 43, epoch 1", first), ("Plainloop, seed 42, epoch 2", ours),
                )
            ),
        ],
        draw=draw,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ looking


def trained_by_trainer(every: int | None, train: Workload, held_out: Workload, folder: str) -> tuple[list[float], Tensor]:
    """The losses and the final weights of a run that is evaluated every so many steps."""
    model = toys.bert(dropout=0.1)
    trainer = toys.make_trainer(
        model, toys.features(train), folder, evaluation=toys.features(held_out), learning_rate=1e-3, num_train_epochs=1,
        eval_strategy="steps" if every else "no", eval_steps=every,
    )  # fmt: skip
    trainer.train()
    return [line["loss"] for line in toys.steps_logged(trainer)], toys.parameters_of(model)


def trained_by_us(every: int | None, train: Workload, held_out: Workload) -> tuple[list[float], Tensor]:
    """The same of ours."""
    setup, task = toys.set_up(toys.bert(dropout=0.1), train, batch_size=8, learning_rate=1e-3)
    state, losses = setup.state, []
    for at, _, record in toys.our_steps(setup, task):
        losses.append(float(record.loss_sum / record.num_items))
        if every and at.step % every == 0:
            loader = eval_loader(task, held_out.examples(), setup.layout, setup.data.config, setup.world)
            evaluate(state.model, task, loader, state.autocast, setup.world)
    return losses, toys.parameters_of(state.model)


def looking(folder: str) -> Finding:
    train, held_out = random_workload(128, 4, 24), random_workload(16, 4, 24, seed=1)
    losses: dict[str, list[float]] = {}
    gaps: dict[str, list[float]] = {}
    apart: dict[str, float] = {}
    for who in ("Trainer", "Plainloop"):
        (unseen, weights), (looked_at, others) = (
            trained_by_trainer(every, train, held_out, folder) if who == "Trainer" else trained_by_us(every, train, held_out)
            for every in (None, 4)
        )
        losses |= {f"{who}, never evaluated": unseen, "every 4 steps" + " " * (who == "Plainloop"): looked_at}
        gaps[who] = [abs(a - b) for a, b in zip(unseen, looked_at, strict=True)]
        apart[who] = float((weights - others).abs().max())

    def draw(axes: Any) -> None:
        steps = range(1, len(gaps["Trainer"]) + 1)
        for (who, values), colour, mark in zip(gaps.items(), (3, 0), "os", strict=True):
            axes.plot(steps, values, color=COLOURS[colour], marker=mark, linewidth=2, label=who)
        for at in range(4, len(steps), 4):
            axes.axvline(at + 0.5, color="#888888", linestyle=":", label="an evaluation" if at == 4 else None)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("training loss: difference from\nthe run without evaluation (nats)")
        axes.legend(frameon=False, loc="upper left")

    return Finding(
        holds=apart["Trainer"] > 0 == apart["Plainloop"] and not any(gaps["Trainer"][:4]) and all(gaps["Trainer"][4:]),
        said="Looking changes the run: from the first evaluation on, Trainer's dropout masks are others",
        table=toys.in_columns("step", range(1, len(gaps["Trainer"]) + 1), losses),
        draw=draw,
        note=f"Weights differ in the end by up to {apart['Trainer']:.1e} (Trainer) and {apart['Plainloop']:g} (Plainloop). On "
        "a GPU dropout has a generator of its own; what is drawn on the host, which tokens to mask say, shifts there too.",
    )


# ------------------------------------------------------------------------------------------------------------- resume


def resume(folder: str) -> Finding:
    workload = numbered(64)
    rows = toys.features(workload)
    arguments: dict[str, Any] = {
        "kind": Seen, "num_train_epochs": 2, "per_device_train_batch_size": 4, "train_sampling_strategy": "group_by_length",
        "save_strategy": "steps", "save_steps": 24,
    }  # fmt: skip
    whole = toys.make_trainer(toys.bert(dropout=0.1), rows, folder, **arguments)
    whole.train()
    resumed = toys.make_trainer(toys.bert(dropout=0.1), rows, folder, **arguments)
    resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-24")
    theirs = [*whole.rows[64:96], *resumed.rows]
    setup, task = toys.set_up(toys.bert(), workload, batch_size=4, batching="bucketed", epochs=2)
    ours = [row for keys in setup.data.plan.micro_batches() for _, row in keys][64:96]
    ours += [row for _, batches, _ in toys.our_steps(setup, task, start=24) for batch in batches for _, row in batch.keys]
    times = {name: [found.count(row) for row in range(64)] for name, found in (("Trainer", theirs), ("Plainloop", ours))}

    def draw(axes: Any) -> None:
        for place, counts in enumerate(times.values()):
            for count, colour, mark in ((0, COLOURS[3], "x"), (1, COLOURS[5], "."), (2, COLOURS[6], "s")):
                at = [row for row, n in enumerate(counts) if n == count]
                axes.plot(at, [place + 0.25 * (1 - count)] * len(at), mark, color=colour, markersize=7,
                          label=f"{('never', 'once', 'twice')[count]} trained on" if place == 0 else None)  # fmt: skip
        axes.set_yticks(range(2), times)
        axes.set_ylim(1.5, -0.9)
        axes.set_xlabel("row of the data, in a second epoch interrupted in its middle (length grouping)")
        axes.legend(frameon=False, loc="upper center", ncols=3)

    never, twice = (times["Trainer"].count(n) for n in (0, 2))
    return Finding(
        holds=whole.rows[96:] != resumed.rows and never > 0 and set(times["Plainloop"]) == {1},
        said=f"Resumed in the second epoch: {never} of 64 rows are never trained on in it, {twice} twice",
        table=[["second epoch, resumed after half", "never", "once", "twice"]]
        + [[name, *(str(counts.count(n)) for n in (0, 1, 2))] for name, counts in times.items()],
        draw=draw,
    )


LESSONS = [
    Lesson(
        "seed", "the seed is set when the model has been built already: the new head lies outside of it",
        ("engine/build.py", "model = task.build_model() if model is None else model"),
        ("transformers/trainer.py", "if self.args.full_determinism else set_seed(self.args.seed)"), seed,
    ),
    Lesson(
        "order", "the order of an epoch is seeded by seed + epoch: neighbouring seeds share their orders (ours is the same)",
        ("engine/data/plan.py", "generator = torch.Generator().manual_seed(self.seed + epoch)"),
        ("accelerate/data_loader.py", "seed = self.epoch + self.initial_seed"), order,
    ),
    Lesson(
        "looking", "an evaluation draws from the generator that dropout uses: how often one looks changes the result",
        ("engine/loader.py", "generator=torch.Generator().manual_seed(config.seed),"),
        ("torch/utils/data/dataloader.py", ".random_(generator=loader.generator)"), looking,
    ),
    Lesson(
        "resume", "with length grouping, resuming in a later epoch draws another order: some rows come twice, some never",
        ("engine/data/plan.py", "[done * self.accumulation_steps : until * self.accumulation_steps]"),
        ("transformers/trainer_pt_utils.py", "indices = torch.randperm(len(lengths), generator=generator)"), resume,
    ),
]  # fmt: skip
