"""What a restart changes without a word: settings that a checkpoint overrules, and what is drawn with other workers."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch

from bench.contest.pictures import COLOURS
from bench.lessons import toys
from bench.lessons.checkpoints import Interrupted, Interrupting, Kept, noisy, our_run
from bench.lessons.lesson import Finding, Lesson
from bench.lessons.randomness import numbered
from engine.artifacts.result import Result
from engine.errors import UserError

# ----------------------------------------------------------------------------------------------------- other-settings


def other_settings(folder: str) -> Finding:
    rows, others = toys.features(noisy(48, 0)), toys.features(noisy(48, 5))
    asked: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.0, "seed": 42}
    fixed: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "save_strategy": "epoch"}
    first = toys.make_trainer(toys.bert(), rows, folder, **fixed, **asked)
    first.train()
    changes: dict[str, dict[str, Any]] = {
        "learning_rate 1e-3 -> 1e-2": {"learning_rate": 1e-2}, "weight_decay 0 -> 0.1": {"weight_decay": 0.1},
        "other rows": {},
    }  # fmt: skip
    used: dict[str, dict[str, float]] = {}
    ours: dict[str, str] = {}
    rates = {"begun with 1e-3": [line["learning_rate"] for line in toys.steps_logged(first)]}
    for name, change in changes.items():
        data = rows if change else others
        trainer = toys.make_trainer(toys.bert(), data, folder, **fixed, **(asked | change))
        trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-3")
        used[name] = {key: trainer.optimizer.param_groups[0][key] for key in ("initial_lr", "weight_decay")}
        if "learning_rate" in change:
            rates["resumed with 1e-2"] = [line["learning_rate"] for line in toys.steps_logged(trainer)]
        ours[name] = refused(change, f"{folder}/{len(ours)}", is_other=not change)
    is_old = {"learning_rate 1e-3 -> 1e-2": used["learning_rate 1e-3 -> 1e-2"]["initial_lr"] == asked["learning_rate"],
              "weight_decay 0 -> 0.1": used["weight_decay 0 -> 0.1"]["weight_decay"] == asked["weight_decay"]}  # fmt: skip

    def draw(axes: Any) -> None:
        begun, resumed = rates.values()
        wanted = [10 * rate for rate in begun[3:]]
        axes.plot(range(1, 7), begun, color=COLOURS[5], linewidth=6, alpha=0.6, label="Trainer, begun with learning_rate=1e-3")
        axes.plot(range(1, 7), resumed, color=COLOURS[3], marker="o", label="Trainer, resumed after step 3 with 1e-2")
        axes.plot(range(4, 7), wanted, color="#000000", linestyle=":", marker="x", label="what was asked for")
        axes.set_xlabel("optimizer step (Plainloop refuses to go on with another rate)")
        axes.set_ylabel("learning rate used")
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 4e-2)
        axes.legend(frameon=False, loc="upper left")

    return Finding(
        holds=all(is_old.values()) and len(is_old) == 2 and all(ours.values()),
        said="Resumed with ten times the learning rate: the old one is used, and nothing is said",
        table=[["changed before the resume", "Trainer uses", "Plainloop"]]
        + [
            [name, ("the old one" if is_old[name] else "the new one") if name in is_old else "the new ones",
             "refuses" if ours[name] else "goes on"]
            for name in changes
        ],
        draw=draw,
        note=f"Plainloop says: {ours['learning_rate 1e-3 -> 1e-2'].replace(folder, '.')}",
    )  # fmt: skip


def refused(change: dict[str, Any], folder: str, *, is_other: bool) -> str:
    """What ours says when a run that was interrupted is resumed with this change; "" if it goes on."""
    settings: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": 16, "epochs": 4}
    train = noisy(192, 0)
    with contextlib.suppress(Interrupted):
        our_run(Interrupting(toys.bert(), train), folder, **settings)
    try:
        our_run(Kept(toys.bert(), noisy(192, 5) if is_other else train), folder, resume=True, **(settings | change))
    except UserError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------------------------------------------------- lost-file


def lost_file(folder: str) -> Finding:
    theirs, ours = trainer_without(folder), ours_without(folder)
    silent = [file for file, gap in theirs.items() if gap]

    def said_of(gap: float | None) -> str:
        return "ends with an error" if gap is None else f"goes on, weights off by {gap:.0e}" if gap else "goes on, same weights"

    def draw(axes: Any) -> None:
        shown = list(theirs)
        for i, file in enumerate(shown):
            gap = theirs[file]
            axes.barh(i, gap or 0, color=COLOURS[3], label="Trainer, resumed without it" if i == 0 else None)
            axes.text(gap or 0, i, f" {gap:.4f}" if gap else " an error" if gap is None else " 0", va="center")
        worst = max(ours.values())
        axes.axvline(worst, color=COLOURS[0], linewidth=3, label=f"Plainloop, without any of its {len(ours)} files: {worst:g}")
        axes.set_yticks(range(len(shown)), shown)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("largest difference of a weight from the run that was never stopped")
        axes.legend(frameon=False, loc="lower right")

    return Finding(
        holds="optimizer.pt" in silent and set(ours.values()) == {0.0},
        said=f"Trainer goes on without {' or '.join(silent)}, to other weights",
        table=[["lost from the newest checkpoint", "the resumed run"]]
        + [[f"Trainer: {file}", said_of(gap)] for file, gap in theirs.items()]
        + [[f"Plainloop: {file}", said_of(gap)] for file, gap in ours.items()],
        draw=draw,
        note="Plainloop finds that the checkpoint is not whole, says so, and takes the one before.",
    )


def trainer_without(folder: str) -> dict[str, float | None]:
    """How far the weights end from those of a run that was never stopped, for each file that is missing; None: it fails."""
    rows = toys.features(noisy(48, 0))
    found: dict[str, float | None] = {}
    settings: dict[str, Any] = {
        "num_train_epochs": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 16, "save_strategy": "epoch",
    }  # fmt: skip
    whole = toys.make_trainer(toys.bert(dropout=0.1), rows, f"{folder}/whole", **settings)
    whole.train()
    right = toys.parameters_of(whole.model)
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
        torn = Path(folder, "torn", file)
        shutil.copytree(f"{folder}/whole/checkpoint-6", torn)
        (torn / file).unlink()
        trainer = toys.make_trainer(toys.bert(dropout=0.1), rows, f"{folder}/again", **settings)
        try:
            trainer.train(resume_from_checkpoint=str(torn))
        except (OSError, ValueError):
            found[file] = None
        else:
            found[file] = float((toys.parameters_of(trainer.model) - right).abs().max())
    return found


def ours_without(folder: str) -> dict[str, float]:
    """The same of ours."""
    settings: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 4}
    train = noisy(192, 0)
    found: dict[str, float] = {}
    right = weights_of(our_run(Kept(toys.bert(dropout=0.1), train), f"{folder}/p", **settings))
    with contextlib.suppress(Interrupted):
        our_run(Interrupting(toys.bert(dropout=0.1), train), f"{folder}/stopped", **settings)
    newest = max(Path(folder, "stopped/ours/checkpoints").glob("step-*"))
    for file in sorted(path.name for path in newest.iterdir()):
        torn = Path(folder, "torn-ours", file)
        shutil.copytree(f"{folder}/stopped", torn)
        (torn / "ours/checkpoints" / newest.name / file).unlink()
        result = our_run(Kept(toys.bert(dropout=0.1), train), str(torn), resume=True, **settings)
        found[file] = float((weights_of(result) - right).abs().max())
    return found


def weights_of(result: Result) -> torch.Tensor:
    assert result.model is not None
    return toys.parameters_of(result.model)


# ------------------------------------------------------------------------------------------------------------ workers


def masked(row: list[int], generator: torch.Generator | None = None) -> list[int]:
    """Each token but the first, by which a row is known, is masked with a probability of 0.3: token 4."""
    hidden = torch.rand(len(row), generator=generator) < 0.3
    return [4 if hides and i else token for i, (token, hides) in enumerate(zip(row, hidden.tolist(), strict=True))]


def masking(rows: toys.Rows) -> dict[str, torch.Tensor]:
    """A collator that draws, as that of a masked language model does."""
    return toys.pad_labels([row | {"input_ids": masked(row["input_ids"])} for row in rows])


class Masking(toys.Classes):
    """The same on our side: prepare is handed a generator of the row's own."""

    def prepare(self, row: Any, generator: torch.Generator) -> Any:
        return {**row, "input_ids": torch.tensor(masked(list(map(int, row["input_ids"])), generator)).numpy()}


def workers(folder: str) -> Finding:
    workload, counts = numbered(64, 8, 24), (0, 1, 2)
    seen: dict[str, list[dict[int, tuple[int, ...]]]] = {"Trainer": [], "Plainloop": []}
    for count in counts:
        trainer = toys.make_trainer(
            toys.bert(), toys.features(workload), folder, collate=masking, dataloader_num_workers=count
        )  # fmt: skip
        found = [batch["input_ids"] for batch in trainer.get_train_dataloader()]
        seen["Trainer"].append(by_row(found))
        setup, _ = toys.set_up(toys.bert(), workload, task=Masking(workload), batch_size=8, workers=count)
        batches = [batch for _, micro_batches in setup.data.steps(0) for batch in micro_batches]
        seen["Plainloop"].append(by_row([torch.as_tensor(batch.inputs["input_ids"]) for batch in batches]))
    alike = {
        who: [sum(masks[row] == found[0][row] for row in range(64)) / 64 for masks in found] for who, found in seen.items()
    }

    def draw(axes: Any) -> None:
        shown = {who: [100 * share for share in shares] for who, shares in alike.items()}
        toys.grouped_bars(axes, [str(count) for count in counts], shown, (COLOURS[3], COLOURS[0]), "{:.0f} %")
        axes.set_xlabel("dataloader_num_workers")
        axes.set_ylabel("rows masked as without workers (%)")
        axes.margins(y=0.35)

    return Finding(
        holds=max(alike["Trainer"][1:]) < 0.2 and set(alike["Plainloop"]) == {1.0},
        said=f"The same seed with 1 or 2 workers: {max(alike['Trainer'][1:]):.0%} of the rows are masked as without",
        table=toys.in_columns("workers", counts, alike, "{:.0%}"),
        draw=draw,
    )  # fmt: skip


def by_row(batches: list[torch.Tensor]) -> dict[int, tuple[int, ...]]:
    """What each row looks like, without its padding; by its first token."""
    return {int(ids[0]): tuple(ids[1:][ids[1:] != 0].tolist()) for batch in batches for ids in batch}


LESSONS = [
    Lesson(
        "other-settings", "a checkpoint overrules the settings of the run that goes on from it, and other rows go unnoticed",
        ("engine/artifacts/directory.py", "if changed := differences(old, new, *kinds):"),
        ("transformers/trainer_utils.py", "attributes_map = {"), other_settings,
    ),
    Lesson(
        "lost-file", "a checkpoint that is not whole is taken all the same: without its optimizer.pt Adam begins anew",
        ("engine/checkpoint/store.py", 'raise DamagedError(f"{directory / name} is damaged")'),
        ("transformers/trainer.py", "os.path.isfile(os.path.join(checkpoint, OPTIMIZER_NAME))"), lost_file,
    ),
    Lesson(
        "workers", "what a collator draws hangs on the number of workers: which tokens are masked, say",
        ("engine/loader.py", "digest = hashlib.blake2b("),
        ("transformers/trainer_utils.py", "worker_seed = num_workers * rank + init_seed"), workers,
    ),
]  # fmt: skip
