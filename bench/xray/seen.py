"""Findings about the log, evaluations, checkpoints, data and the machine."""

from __future__ import annotations

from bench.xray.arguments import Arguments
from bench.xray.case import Case, Finding, Found
from bench.xray.script import Unknown

BY_EVALUATION = (None, "reduce_lr_on_plateau", "greedy")  # schedules that follow the best evaluation, or may

# ------------------------------------------------------------------------------------------------- log, evaluation, saving


def of_log(case: Case) -> Found:
    """What the log leaves out."""
    a, n = case.arguments, case.numbers
    if a.truth("logging_nan_inf_filter"):
        default = a.from_default("logging_nan_inf_filter")
        yield Finding(
            36,
            f"logging_nan_inf_filter=True{default}: a loss of NaN is replaced in the log, and the update happens; "
            "watch grad_norm",
        )
        times = f", {n.accumulation} times a step" if n.accumulation and n.accumulation > 1 else ""
        yield Finding(
            37, f"to see whether it is finite the host reads every micro-batch's loss{times}, and waits for the device"
        )
    if a.text("logging_strategy") == "steps" and (every := n.every("logging")) is not None:
        if n.num_steps is not None and every > n.num_steps:
            yield Finding(
                58,
                f"logging_steps={every:,}{a.from_default('logging_steps')}, and the run has {n.num_steps:,} steps: not one "
                "line of the loss before the summary at the end",
            )
        elif "logging_steps" not in a.values:
            lines = f": {n.times('logging'):,} lines of the loss in the run" if n.num_steps is not None else ""
            yield Finding(58, f"logging_steps=500 (the default){lines}")
    if n.last_step_of_epoch is not None:
        _, rows = n.last_step_of_epoch
        yield Finding(42, f"in the logged loss the step of {rows:,} rows weighs as much as one of {n.effective_batch:,}")


def of_evaluation(case: Case) -> Found:
    """How evaluations weigh, and when they come."""
    a, n = case.arguments, case.numbers
    strategy = a.text("eval_strategy")
    if strategy == "steps" and (every := n.every("eval")) is not None and n.num_steps is not None:
        if n.num_steps % every and not a.get("eval_delay"):
            yield Finding(
                48,
                f"{n.times('eval'):,} evaluations: one every {every:,} steps and one more after the last, step {n.num_steps:,}",
            )
        if "eval_steps" not in a.values:
            yield Finding(48, f"eval_steps is not given: logging_steps takes its place, {every:,}")
    batch = a.whole("per_device_eval_batch_size")
    if strategy in ("steps", "epoch") and batch is not None:
        default = a.from_default("per_device_eval_batch_size")
        if case.model is not None and case.model.is_token_loss:
            yield Finding(
                45,
                f"per_device_eval_batch_size={batch}{default}: eval_loss is a mean of {batch} rows' means, weighed by rows and "
                "not by tokens, so another batch size gives another eval_loss",
            )
        elif case.model is None:
            yield Finding(
                45,
                f"per_device_eval_batch_size={batch}{default}: of a loss over tokens, eval_loss changes with it; "
                "over classes not",
            )
        if a.truth("logging_nan_inf_filter"):
            yield Finding(
                47, "batches whose loss is NaN or infinite are left out of eval_loss, and the mean of the others is reported"
            )
        keeps = "compute_metrics" in case.clues.passed and "preprocess_logits_for_metrics" not in case.clues.passed
        if keeps and not a.truth("batch_eval_metrics"):
            many = f" of {n.eval_rows:,} rows" if n.eval_rows else ""
            yield Finding(44, f"compute_metrics is given: the logits{many} are all kept until the end of each evaluation")
        yield Finding(13, "each evaluation draws from the global generator: on a CPU the dropout masks after it are others")


def of_checkpoints(case: Case) -> Found:
    """What is kept, and what is best."""
    a, n = case.arguments, case.numbers
    strategy, limit = a.text("save_strategy"), a.number("save_total_limit")
    best = a.truth("load_best_model_at_end")
    if strategy == "steps" and "save_steps" not in a.values and (every := n.every("save")) is not None:
        times = f": {many:,} in the run, the last at its end" if (many := n.times("save")) is not None else ""
        yield Finding(58, f"a checkpoint every {every:,} steps (the default){times}")
    if best is False and a.text("eval_strategy") in ("steps", "epoch"):
        yield Finding(
            50,
            f"load_best_model_at_end=False{a.from_default('load_best_model_at_end')}: it evaluates, and keeps the last "
            "model, not the best",
        )
    if best:
        yield Finding(51, "weights that are missing in the best checkpoint's file stay as they were at the end, with a warning")
        if limit == 1:
            yield Finding(
                57,
                "save_total_limit=1 with load_best_model_at_end: two checkpoints stand while it trains, the newest and the "
                "best; at the end the newest is deleted, and a later run can only go on from the best",
            )
    elif limit and strategy in ("steps", "epoch") and forgets_the_best(a):
        yield Finding(
            57,
            f"save_total_limit={limit:g} and no best model is asked for: only the newest stay, and the checkpoint of the best "
            "evaluation is deleted like any other (metric_for_best_model spares it)",
        )
    if best or strategy == "best":
        name, greater = a.text("metric_for_best_model"), a.get("greater_is_better")
        if name is None and not isinstance(a.get("metric_for_best_model"), Unknown):
            yield Finding(49, "metric_for_best_model is not given: the best model is that of the smallest eval_loss")
        elif name is not None and greater is None:
            better = "smaller" if name.endswith("loss") else "larger"
            trap = (
                ""
                if not is_error(name)
                else f": {name} reads as an error, of which less is better, so the worst model would be kept"
            )
            yield Finding(49, f"greater_is_better is not given: of {name} {better} counts as better, by its name{trap}")


def forgets_the_best(a: Arguments) -> bool:
    """Does it evaluate without noting which checkpoint was the best? Trainer notes it where something asks for it."""
    asks = a.truth("load_best_model_at_end") is not False or a.get("metric_for_best_model") is not None
    return a.text("eval_strategy") in ("steps", "epoch") and not asks and a.text("lr_scheduler_type") not in BY_EVALUATION


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
        yield Finding(
            9,
            f"remove_unused_columns=True{default}: columns that the model's forward does not name are dropped without a word",
        )
    sampling = a.text("train_sampling_strategy")
    if padding is not None:
        cannot = "; as it stands, Trainer is given neither tokenizer nor collator, and rows of unequal length do not stack"
        yield Finding(10, padding.said + (cannot if case.stacks_rows else ""))
    elif case.clues.pads_to_max_length:
        width = f" {case.clues.max_length}" if case.clues.max_length else ""
        yield Finding(10, f"the script pads every row to max_length{width}; --data FILE --model DIR measures what that costs")
    seed = a.whole("seed", least=0)
    data_seed = a.get("data_seed")
    if seed is not None and sampling == "random" and a.get("accelerator_config") is None:
        first = seed if data_seed is None else data_seed
        if isinstance(first, int):
            yield Finding(
                12,
                f"the order of epoch e is drawn with seed {first} + e: its second epoch is the first one of seed {first + 1}",
            )
    if sampling == "group_by_length":
        rows = f" of {n.chunk:,} rows" if n.chunk else " of up to 50 steps"
        yield Finding(18, f"rows are sorted by length in chunks{rows}, longest first: rows of like length meet in a step")
        yield Finding(
            54, "the order comes from the global generator, which stands elsewhere after a resume: rows come twice or never"
        )
    workers = a.whole("dataloader_num_workers", least=0)
    if workers:
        if not a.truth("dataloader_persistent_workers"):
            yield Finding(14, f"dataloader_num_workers={workers}: so many processes are started anew in every epoch")
        yield Finding(19, f"what a collator draws (masks, say) depends on there being {workers} workers")
    if a.truth("dataloader_pin_memory") and not a.truth("use_cpu"):
        default = a.from_default("dataloader_pin_memory")
        yield Finding(15, f"dataloader_pin_memory=True{default}: memory is pinned, and copies to the device wait all the same")


def of_precision(case: Case) -> Found:
    """fp16, bf16, TF32, half weights."""
    a, clues = case.arguments, case.clues
    fp16, bf16, on_cpu = a.truth("fp16"), a.truth("bf16"), a.truth("use_cpu")
    half = clues.half or (case.model.dtype if case.model is not None and "16" in case.model.dtype else "")
    if half:
        yield Finding(
            2,
            f"the weights are loaded as {half} and trained as such: small steps are "
            "rounded away (dtype=torch.float32 mends it)",
        )
    if fp16:
        optimizer = a.text("optim") or ""
        moves = "moves on" if optimizer.endswith("fused") else "waits and never reaches its end" if optimizer else "may wait"
        yield Finding(26, f"fp16: a step whose gradient overflows is thrown away and counted; the schedule {moves}")
        if a.number("max_grad_norm"):
            yield Finding(35, "fp16: gradients are divided by the loss scale before they are clipped")
    if fp16 or bf16:
        yield Finding(40, f"{'fp16' if fp16 else 'bf16'}: accelerate replaces model.forward, and outputs are cast to float32")
    elif fp16 is False and bf16 is False and not on_cpu:
        yield Finding(
            8,
            "neither bf16 nor fp16 is given: fp32, unless ACCELERATE_MIXED_PRECISION "
            "stands in the environment (accelerate launch)",
        )
        if a.get("tf32") is None and not a.truth("torch_compile"):
            yield Finding(
                7, "tf32 is not given: on GPUs that have TF32, float32 products run at full width, several times slower"
            )


def of_setup(case: Case) -> Found:
    """Seeds, GPUs, and starting over."""
    a, n, clues = case.arguments, case.numbers, case.clues
    seed = a.whole("seed", least=0)
    if "model_init" not in clues.passed and not clues.seeds and seed is not None:
        yield Finding(
            1,
            f"seed={seed}{a.from_default('seed')} is set when Trainer is made, after "
            "the model: a new head differs from start to start, unless something seeds before it",
        )
    if n.world == 1 and not a.truth("use_cpu"):
        factor = f"{n.effective_batch:,} rows a step become as many times more" if n.effective_batch else "the batch grows"
        yield Finding(3, f"without torchrun, several visible GPUs mean nn.DataParallel: {factor}")
    if a.truth("auto_find_batch_size"):
        yield Finding(
            59,
            "auto_find_batch_size: after running out of memory it starts over with 0.9 of the batch, and the same accumulation",
        )
    if a.get("resume_from_checkpoint") not in (None, False):
        yield Finding(43, "after a resume, train_loss is of the steps since then, not of the run")
