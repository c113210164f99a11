"""Which of the hidden steps of docs/what-trainer-hides.md bite in a configuration, each with its numbers.

A finding is said only where the arguments, the model and the data that were given make it true; what depends on something that
is not known says so, or is left out. tests/bench/xray run Trainer with the same arguments and compare. Next: translate.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.xray.arguments import Arguments
from bench.xray.data import Padding
from bench.xray.model import ModelFacts
from bench.xray.numbers import NO_WARMUP, Numbers
from bench.xray.script import Clues, Unknown

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
    54: "Resuming with length grouping", 57: "save_total_limit=1 may keep two", 58: "Every 500 steps",
    59: "auto_find_batch_size starts over",
}  # fmt: skip
LEARNED = frozenset({1, 2, 3, 9, 12, 13, 18, 19, 20, 21, 23, 24, 26, 28, 29, 30, 31, 32, 33, 35, 41, 50, 54, 59})  # what comes out
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
    def computes_own_loss(self) -> str:
        """Who computes the loss in place of Trainer and the model; "" if nobody is known to."""
        if self.clues.own_loss:
            return self.clues.own_loss
        if "compute_loss_func" in self.clues.passed:
            return "compute_loss_func"
        own = self.clues.trainer if self.clues.trainer not in ("", "Trainer", "Seq2SeqTrainer") else ""
        kind = self.arguments.kind
        return own or (kind if kind not in ("TrainingArguments", "Seq2SeqTrainingArguments") else "")


def find(case: Case) -> list[Finding]:
    """All findings, in the order of the page."""
    parts = (of_loss, of_schedule, of_optimizer, of_log, of_evaluation, of_checkpoints, of_data, of_precision, of_setup)
    return sorted((Finding(*found) for part in parts for found in part(case)), key=lambda finding: finding.row)


Found = Iterator[tuple[int, str]]


# --------------------------------------------------------------------------------------------------------------- the loss


def of_loss(case: Case) -> Found:
    """Accumulation, items, smoothing, clipping."""
    a, n = case.arguments, case.numbers
    smoothing = a.number("label_smoothing_factor")
    if smoothing:
        yield 41, (
            f"label_smoothing_factor={smoothing:g}: the labels are taken out of the inputs, and Trainer's own smoothed "
            "cross-entropy takes the place of the model's loss, whatever that would have done with them"
        )
    if n.accumulation is not None and (n.accumulation > 1 or n.world > 1):
        yield from of_accumulation(case, smoothing=bool(smoothing))
    clip = a.number("max_grad_norm")
    if clip == 0:
        yield 34, "max_grad_norm=0: nothing is clipped, and the norm is computed in every step all the same"
    elif clip is not None:
        yield 33, (
            f"max_grad_norm={clip:g}{a.from_default('max_grad_norm')}: every step's gradient is scaled down to 2-norm {clip:g} "
            "if it is longer; the log shows the norm from before"
        )


def of_accumulation(case: Case, *, smoothing: bool) -> Found:
    """What several micro-batches to a step, or several processes, do to the gradient with this class."""
    n, model = case.numbers, case.model
    pieces = f"{n.accumulation} micro-batches" + (f" on each of {n.world} processes" if n.world > 1 else "")
    if case.computes_own_loss:
        if case.clues.own_loss:
            yield 29, (
                f"{case.clues.own_loss}: Trainer divides by nothing if the model's forward takes **kwargs, so a mean over a "
                f"micro-batch comes out {n.accumulation} times as large; loss_is_scaled_for_ga = False on the class mends it"
            )
        elif case.computes_own_loss == "compute_loss_func":
            yield 31, (
                "compute_loss_func: Trainer divides by nothing; a sum over num_items_in_batch is right, a mean comes out "
                f"{n.accumulation} times as large"
            )
        return
    if model is None:
        yield 28, (
            f"{pieces} to a step: whether the gradient is right depends on the model's class (BERT's heads: "
            f"{(n.accumulation or 1) * n.world} times too large); --model DIR measures it"
        )
        return
    how = "items" if smoothing and model.takes_count and model.has_labels else model.accumulates_by
    if how == "times":
        yield 28, (
            f"{model.name}: loss and gradient of a full step are {(n.accumulation or 1) * n.world} times too large. Its forward takes **kwargs, so "
            f"Trainer expects it to divide by num_items_in_batch, and it takes a plain mean: the means of {pieces} are added up. "
            "AdamW hides most of it; the logged loss, clipping and SGD do not"
        )
    elif how == "means":
        ending = "" if model.has_labels else ' (it counts a column called "labels", and there is none)'
        yield 31, (
            f"{model.name}: no num_items_in_batch{ending}: each micro-batch's mean counts alike, so a row or token in a short "
            f"micro-batch weighs more; {pieces} to a step"
        )
    elif how == "items":
        yield 31, f"{model.name}: the sum over all items of {pieces} is divided once by their number, num_items_in_batch: right"
        if model.uncounted and not smoothing:
            yield from of_class_name(case, model)
    else:
        yield 28, f"whether {pieces} multiply the gradient is not known: {model.why}"


def of_class_name(case: Case, model: ModelFacts) -> Found:
    """A causal model whose targets are counted without the shift."""
    share = ""
    if case.padding is not None and case.padding.mean_length:
        left = 1 - model.uncounted / case.padding.mean_length
        share = f": with rows of {case.padding.mean_length:.1f} tokens loss and gradient are {left:.2%} of the true ones"
    yield 30, (
        f"{model.name} is not called ...ForCausalLM, so Trainer counts {model.uncounted} target too many in each row" + share
    )


# ------------------------------------------------------------------------------------------------- optimizer and schedule


def of_schedule(case: Case) -> Found:
    """Warm-up, short last steps."""
    a, n = case.arguments, case.numbers
    asked = n.asked_warmup
    if asked and n.schedule in NO_WARMUP:
        yield 24, (
            f"warmup_steps={asked:g} has no effect: the schedule {n.schedule} is made without a warm-up "
            "(constant_with_warmup has one)"
        )
    elif asked and n.schedule is not None:
        if 0 < asked < 1:
            many = f"{n.warmup:,} of {n.num_steps:,} steps" if n.warmup is not None else "of a number of steps not known here"
            yield 24, f"warmup_steps={asked:g} is a share of all steps, rounded up: {many}"
        yield 23, f"the first step has the learning rate 0 and moves nothing{peak_of(n)}"
    if n.last_step_of_epoch is not None and n.effective_batch is not None:
        batches, rows = n.last_step_of_epoch
        yield 32, (
            f"the last step of an epoch has {rows:,} of {n.effective_batch:,} rows, in {batches} of {n.accumulation} "
            "micro-batches, and counts as a step like the others"
        )


def peak_of(n: Numbers) -> str:
    """When the rate is at its highest."""
    if n.warmup is None:
        return ""
    if n.num_steps is not None and n.warmup >= n.num_steps:
        return f"; the warm-up has {n.warmup:,} steps and the run {n.num_steps:,}, so the peak is never reached"
    return f"; the peak comes at step {n.warmup + 1:,}"


def of_optimizer(case: Case) -> Found:
    """Decay, AdamW."""
    a, model = case.arguments, case.model
    decay = a.number("weight_decay")
    if decay == 0:
        yield 21, (
            f"weight_decay=0{a.from_default('weight_decay')}: nothing is decayed, where torch.optim.AdamW has 0.01 for all "
            "parameters and the tutorials' usual value is 0.01"
        )
    elif decay is not None:
        parts = "biases, nn.LayerNorm, and names with norm in them"
        if model is not None:
            (many, size), (spared, spared_size) = model.decayed, model.spared
            parts = f"{spared} tensors ({spared_size:,} parameters), {parts}; {many} tensors ({size:,} parameters) are decayed"
        yield 20, f"weight_decay={decay:g} spares {parts}"
        if model is not None and model.decayed_vectors:
            names = ", ".join(model.decayed_vectors[:2])
            yield 20, f"{len(model.decayed_vectors)} vectors are decayed all the same, neither class nor name spares them: {names}"
    optimizer = a.text("optim")
    if optimizer in ("adamw_torch_fused", "adamw_torch"):
        kind = "the fused AdamW" if optimizer.endswith("fused") else "AdamW, not the fused one"
        yield 22, f"optim={optimizer}{a.from_default('optim')}: {kind} of torch, betas {a.get('adam_beta1')} and {a.get('adam_beta2')}"


# ------------------------------------------------------------------------------------------------- log, evaluation, saving


def of_log(case: Case) -> Found:
    """What the log leaves out."""
    a, n = case.arguments, case.numbers
    if a.truth("logging_nan_inf_filter"):
        default = a.from_default("logging_nan_inf_filter")
        yield 36, f"logging_nan_inf_filter=True{default}: a loss of NaN is replaced in the log, and the update happens; watch grad_norm"
        times = f", {n.accumulation} times a step" if n.accumulation and n.accumulation > 1 else ""
        yield 37, f"to see whether it is finite the host reads every micro-batch's loss{times}, and waits for the device"
    if a.text("logging_strategy") == "steps" and (every := n.every("logging")) is not None:
        if n.num_steps is not None and every > n.num_steps:
            yield 58, (
                f"logging_steps={every:,}{a.from_default('logging_steps')}, and the run has {n.num_steps:,} steps: not one line of "
                "the loss before the summary at the end"
            )
        elif "logging_steps" not in a.values:
            lines = f": {n.times('logging'):,} lines of the loss in the run" if n.num_steps is not None else ""
            yield 58, f"logging_steps=500 (the default){lines}"
    if n.last_step_of_epoch is not None:
        _, rows = n.last_step_of_epoch
        yield 42, f"in the logged loss the step of {rows:,} rows weighs as much as one of {n.effective_batch:,}"


def of_evaluation(case: Case) -> Found:
    """How evaluations weigh, and when they come."""
    a, n = case.arguments, case.numbers
    strategy = a.text("eval_strategy")
    if strategy == "steps" and (every := n.every("eval")) is not None and n.num_steps is not None:
        if n.num_steps % every and not a.get("eval_delay"):
            yield 48, f"{n.times('eval'):,} evaluations: one every {every:,} steps and one more after the last, step {n.num_steps:,}"
        if "eval_steps" not in a.values:
            yield 48, f"eval_steps is not given: logging_steps takes its place, {every:,}"
    batch = a.whole("per_device_eval_batch_size")
    if strategy in ("steps", "epoch") and batch is not None:
        default = a.from_default("per_device_eval_batch_size")
        if case.model is not None and case.model.is_token_loss:
            yield 45, (
                f"per_device_eval_batch_size={batch}{default}: eval_loss is a mean of {batch} rows' means, weighed by rows and not "
                "by tokens, so another batch size gives another eval_loss"
            )
        elif case.model is None:
            yield 45, f"per_device_eval_batch_size={batch}{default}: of a loss over tokens, eval_loss changes with it; over classes not"
        if a.truth("logging_nan_inf_filter"):
            yield 47, "batches whose loss is NaN or infinite are left out of eval_loss, and the mean of the others is reported"
        if "compute_metrics" in case.clues.passed and not a.truth("batch_eval_metrics"):
            many = f" of {n.eval_rows:,} rows" if n.eval_rows else ""
            yield 44, f"compute_metrics is given: the logits{many} are all kept until the end of each evaluation"
        yield 13, "each evaluation draws from the global generator: on a CPU the dropout masks after it are others"


def of_checkpoints(case: Case) -> Found:
    """What is kept, and what is best."""
    a, n = case.arguments, case.numbers
    strategy, limit = a.text("save_strategy"), a.number("save_total_limit")
    best = a.truth("load_best_model_at_end")
    if strategy == "steps" and "save_steps" not in a.values and (every := n.every("save")) is not None:
        times = f": {many:,} in the run, the last at its end" if (many := n.times("save")) is not None else ""
        yield 58, f"a checkpoint every {every:,} steps (the default){times}"
    if best is False and a.text("eval_strategy") in ("steps", "epoch"):
        yield 50, f"load_best_model_at_end=False{a.from_default('load_best_model_at_end')}: it evaluates, and keeps the last model, not the best"
    if best:
        yield 51, "weights that are missing in the best checkpoint's file stay as they were at the end, with a warning"
        if limit == 1:
            yield 57, "save_total_limit=1 with load_best_model_at_end: two checkpoints stand at the end when the best is not the newest"
    if best or strategy == "best":
        name, greater = a.text("metric_for_best_model"), a.get("greater_is_better")
        if name is None and not isinstance(a.get("metric_for_best_model"), Unknown):
            yield 49, "metric_for_best_model is not given: the best model is that of the smallest eval_loss"
        elif name is not None and greater is None:
            better = "smaller" if name.endswith("loss") else "larger"
            trap = "" if not is_error(name) else f": {name} reads as an error, of which less is better, so the worst model would be kept"
            yield 49, f"greater_is_better is not given: of {name} {better} counts as better, by its name{trap}"


def is_error(name: str) -> bool:
    """Does the name of a metric say that less of it is better? For a warning only."""
    word = name.lower().removeprefix("eval_")
    return word in ("wer", "cer", "ter", "mse", "rmse", "mae", "perplexity", "ppl", "eer") or word.endswith("error")


# ----------------------------------------------------------------------------------------------------------- data, machine


def of_data(case: Case) -> Found:
    """Order, padding, workers."""
    a, n, padding = case.arguments, case.numbers, case.padding
    if a.truth("remove_unused_columns"):
        default = a.from_default("remove_unused_columns")
        yield 9, f"remove_unused_columns=True{default}: columns that the model's forward does not name are dropped without a word"
    sampling = a.text("train_sampling_strategy")
    if padding is not None:
        yield 10, padding.said
    elif case.clues.pads_to_max_length:
        width = f" {case.clues.max_length}" if case.clues.max_length else ""
        yield 10, f'the script pads every row to max_length{width}; --data FILE --model DIR measures what that costs'
    seed = a.whole("seed", least=0)
    data_seed = a.get("data_seed")
    if seed is not None and sampling == "random":
        first = seed if data_seed is None else data_seed
        if isinstance(first, int):
            yield 12, f"the order of epoch e is drawn with seed {first} + e: its second epoch is the first one of seed {first + 1}"
    if sampling == "group_by_length":
        rows = f" of {n.chunk:,} rows" if n.chunk else " of up to 50 steps"
        yield 18, f"rows are sorted by length in chunks{rows}, longest first: rows of like length meet in a step"
        yield 54, "the order comes from the global generator, which stands elsewhere after a resume: rows come twice or never"
    workers = a.whole("dataloader_num_workers", least=0)
    if workers:
        if not a.truth("dataloader_persistent_workers"):
            yield 14, f"dataloader_num_workers={workers}: so many processes are started anew in every epoch"
        yield 19, f"what a collator draws (masks, say) depends on there being {workers} workers"
    if a.truth("dataloader_pin_memory") and not a.truth("use_cpu"):
        default = a.from_default("dataloader_pin_memory")
        yield 15, f"dataloader_pin_memory=True{default}: memory is pinned, and copies to the device wait all the same"


def of_precision(case: Case) -> Found:
    """fp16, bf16, TF32, half weights."""
    a, clues = case.arguments, case.clues
    fp16, bf16, on_cpu = a.truth("fp16"), a.truth("bf16"), a.truth("use_cpu")
    half = clues.half or (case.model.dtype if case.model is not None and "16" in case.model.dtype else "")
    if half:
        yield 2, f"the weights are loaded as {half} and trained as such: small steps are rounded away (dtype=torch.float32 mends it)"
    if fp16:
        optimizer = a.text("optim") or ""
        moves = "moves on" if optimizer.endswith("fused") else "waits and never reaches its end" if optimizer else "may wait"
        yield 26, f"fp16: a step whose gradient overflows is thrown away and counted; the schedule {moves}"
        if a.number("max_grad_norm"):
            yield 35, "fp16: gradients are divided by the loss scale before they are clipped"
    if fp16 or bf16:
        yield 40, f"{'fp16' if fp16 else 'bf16'}: accelerate replaces model.forward, and outputs are cast to float32"
    elif fp16 is False and bf16 is False and not on_cpu:
        yield 8, "neither bf16 nor fp16 is given: fp32, unless ACCELERATE_MIXED_PRECISION stands in the environment (accelerate launch)"
        if a.get("tf32") is None and not a.truth("torch_compile"):
            yield 7, "tf32 is not given: on GPUs that have TF32, float32 products run at full width, several times slower"


def of_setup(case: Case) -> Found:
    """Seeds, GPUs, and starting over."""
    a, n, clues = case.arguments, case.numbers, case.clues
    seed = a.whole("seed", least=0)
    if "model_init" not in clues.passed and seed is not None:
        yield 1, f"seed={seed}{a.from_default('seed')} is set when Trainer is made, after the model: a new head differs from start to start"
    if n.world == 1 and not a.truth("use_cpu"):
        factor = f"{n.effective_batch:,} rows a step become as many times more" if n.effective_batch else "the batch grows"
        yield 3, f"without torchrun, several visible GPUs mean nn.DataParallel: {factor}"
    if a.truth("auto_find_batch_size"):
        yield 59, "auto_find_batch_size: after running out of memory it starts over with 0.9 of the batch, and the same accumulation"
    if a.get("resume_from_checkpoint") not in (None, False):
        yield 43, "after a resume, train_loss is of the steps since then, not of the run"
