"""What is known of a run, and what a finding about it is. Next: learned.py and seen.py, which have them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.xray.arguments import Arguments
from bench.xray.data import Padding
from bench.xray.model import ModelFacts
from bench.xray.numbers import Numbers
from bench.xray.script import Clues

PAGE = "docs/what-trainer-hides.md"
TITLES = {  # of the rows that can bite or not
    1: "The seed comes after the model", 2: "Half-precision checkpoints train in half", 3: "All visible GPUs",
    7: "TF32 only with compile", 8: "Precision from the environment", 9: "Columns disappear", 10: "How rows are padded",
    12: "Seeds share orders", 13: "Looking changes the run", 14: "Workers start anew in each epoch",
    15: "Pinned memory that blocks", 18: "Length grouping", 19: "Workers' random numbers", 20: "Decay by name",
    21: "No decay by default", 22: "Fused AdamW", 23: "The first step of a warm-up", 24: "Warm-up below 1 is a share",
    26: "fp16 steps that do nothing", 28: "Accumulation multiplies the gradient", 29: "A compute_loss of your own",
    30: "The name of the class counts", 31: "What an item is", 32: "The last step of an epoch is short", 33: "Clipping is on",
    34: "Clipping off still measures", 35: "fp16: unscaled before clipping", 36: "NaN is taken out of the log",
    37: "The host waits in every micro-batch", 40: "Autocast patches your model", 41: "Label smoothing takes the labels away",
    42: "The logged loss is a mean over steps", 43: "train_loss after a resume", 44: "Every logit is kept",
    45: "Batches weigh by rows", 47: "NaN is taken out of eval_loss", 48: "An evaluation nobody asked for",
    49: "What is best is guessed", 50: "The last model is kept, not the best", 51: "The best model is loaded leniently",
    54: "Resuming with length grouping", 57: "Which checkpoints survive", 58: "Every 500 steps",
    59: "auto_find_batch_size starts over", 64: "DDP takes the mean over ranks", 65: "Rows come twice to fill the last step",
}  # fmt: skip
LEARNED = frozenset(
    {1, 2, 3, 9, 12, 13, 18, 19, 20, 21, 23, 24, 26, 28, 29, 30, 31, 32, 33, 35, 41, 50, 54, 59, 64, 65}
)  # what comes out
ALWAYS = (4, 5, 6, 11, 16, 17, 25, 27, 38, 39, 52, 53, 55, 56)  # whatever the arguments


@dataclass(frozen=True)
class Finding:
    """``row``: of the page; ``said``: what it does in this configuration."""

    row: int
    said: str

    @property
    def title(self) -> str:
        return TITLES[self.row]


@dataclass(frozen=True)
class Case:
    """All that is known. ``model``, ``padding``: None if no model or data were given."""

    arguments: Arguments
    numbers: Numbers
    clues: Clues
    model: ModelFacts | None = None
    padding: Padding | None = None
    notes: tuple[str, ...] = ()

    @property
    def stacks_rows(self) -> bool:
        """Does the script leave Trainer with the collator that pads nothing? False where it is not known."""
        given = self.clues.passed & {"processing_class", "tokenizer", "data_collator"}
        return self.clues.trainer in ("Trainer", "Seq2SeqTrainer") and not given and not self.clues.pads_to_max_length

    @property
    def has_own_optimizer(self) -> bool:
        """Does the script hand Trainer an optimizer, so that these arguments decide nothing of it?"""
        return bool(self.clues.passed & {"optimizers", "optimizer_cls_and_kwargs"})

    @property
    def computes_own_loss(self) -> str:
        """Who computes the loss in place of Trainer and the model; "" if nobody is known to."""
        if self.clues.own_loss:
            return self.clues.own_loss
        if "compute_loss_func" in self.clues.passed:
            return "compute_loss_func"
        own = self.clues.trainer if self.clues.trainer not in ("", "Trainer", "Seq2SeqTrainer") else ""
        kind = self.arguments.kind
        return own or (kind if kind not in ("TrainingArguments", "Seq2SeqTrainingArguments") else "")


Found = Iterator[Finding]
