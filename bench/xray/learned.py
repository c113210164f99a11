"""Findings about the loss, the schedule and the optimizer: what changes the weights that come out."""

from __future__ import annotations

from bench.xray.case import Case, Finding, Found
from bench.xray.model import ModelFacts
from bench.xray.numbers import NO_WARMUP, Numbers

# --------------------------------------------------------------------------------------------------------------- the loss


def of_loss(case: Case) -> Found:
    """Accumulation, items, smoothing, clipping."""
    a, n = case.arguments, case.numbers
    smoothing = a.number("label_smoothing_factor")
    is_seq2seq = case.model is not None and case.model.task == "seq2seq"
    if smoothing:
        yield Finding(
            41,
            f"label_smoothing_factor={smoothing:g}: the labels are taken out of the inputs, and Trainer's own smoothed "
            "cross-entropy takes the place of the model's loss, whatever that would have done with them"
            + ("; without them it has no decoder_input_ids, unless the collator makes some" if is_seq2seq else ""),
        )
    if n.accumulation is not None and (n.accumulation > 1 or n.world > 1):
        yield from of_accumulation(case, smoothing=bool(smoothing))
    clip = a.number("max_grad_norm")
    if clip == 0:
        yield Finding(34, "max_grad_norm=0: nothing is clipped, and the norm is computed in every step all the same")
    elif clip is not None:
        yield Finding(
            33,
            f"max_grad_norm={clip:g}{a.from_default('max_grad_norm')}: every step's gradient is scaled down to 2-norm "
            f"{clip:g} if it is longer; the log shows the norm from before",
        )


def of_accumulation(case: Case, *, smoothing: bool) -> Found:
    """What several micro-batches to a step, or several processes, do to the gradient with this class."""
    n, model = case.numbers, case.model
    pieces = f"{n.accumulation} micro-batches" + (f" on each of {n.world} processes" if n.world > 1 else "")
    averages = case.arguments.truth("average_tokens_across_devices") is not False  # then Trainer undoes DDP's mean over ranks
    times = (n.accumulation or 1) * (n.world if averages else 1)
    if case.computes_own_loss:
        if n.accumulation and n.accumulation > 1:
            yield from of_own_loss(case)
        return
    if model is None:
        yield Finding(
            28,
            f"{pieces} to a step: whether the gradient is right depends on the model's class (BERT's heads: "
            f"{times} times too large); --model DIR measures it",
        )
        return
    how = "items" if smoothing and model.takes_count and model.has_labels else model.accumulates_by
    if n.world > 1 and not averages and (how == "items" or times == 1):
        yield Finding(
            64,
            f"average_tokens_across_devices=False: each of the {n.world} processes divides by what it has itself, and DDP "
            "takes the mean of these gradients: a token or row weighs more where there are few of them",
        )
    elif how == "times":
        yield Finding(
            28,
            f"{model.name}: loss and gradient of a full step are {times} times too large. Its forward "
            "takes **kwargs, so Trainer expects it to divide by num_items_in_batch, and it takes a plain mean: the means of "
            f"{pieces} are added up. AdamW hides most of it; the logged loss, clipping and SGD do not",
        )
    elif how == "means":
        ending = "" if model.has_labels else ' (it counts a column called "labels", and there is none)'
        yield Finding(
            31,
            f"{model.name}: no num_items_in_batch{ending}: each micro-batch's mean counts alike, so a row or token in "
            f"a short micro-batch weighs more; {pieces} to a step",
        )
    elif how == "items":
        yield Finding(
            31, f"{model.name}: the sum over all items of {pieces} is divided once by their number, num_items_in_batch: right"
        )
        if model.uncounted and not smoothing:
            yield from of_class_name(case, model)
    else:
        yield Finding(28, f"whether {pieces} multiply the gradient is not known: {model.why}")


def of_own_loss(case: Case) -> Found:
    """A loss of the script's own, or of another library's trainer, of which nothing is said."""
    n = case.numbers
    if case.clues.own_loss:
        yield Finding(
            29,
            f"{case.clues.own_loss}: Trainer divides by nothing if the model's forward takes **kwargs, so a mean over "
            f"a micro-batch comes out {n.accumulation} times as large; loss_is_scaled_for_ga = False on the class mends it",
        )
    elif case.computes_own_loss == "compute_loss_func":
        yield Finding(
            31,
            "compute_loss_func: Trainer divides by nothing; a sum over num_items_in_batch is right, a mean comes out "
            f"{n.accumulation} times as large",
        )


def of_class_name(case: Case, model: ModelFacts) -> Found:
    """A causal model whose targets are counted without the shift."""
    share = ""
    if case.padding is not None and case.padding.mean_length:
        left = 1 - model.uncounted / case.padding.mean_length
        share = f": with rows of {case.padding.mean_length:.1f} tokens loss and gradient are {left:.2%} of the true ones"
    yield Finding(
        30,
        f"{model.name} is not called ...ForCausalLM, so Trainer counts {model.uncounted} target too many in each row{share}",
    )


# ------------------------------------------------------------------------------------------------- optimizer and schedule


def of_schedule(case: Case) -> Found:
    """Warm-up, short last steps."""
    n = case.numbers
    asked = None if case.has_own_optimizer else n.asked_warmup
    if asked and n.schedule in NO_WARMUP:
        yield Finding(
            24,
            f"warmup_steps={asked:g} has no effect: the schedule {n.schedule} is made without a warm-up "
            "(constant_with_warmup has one)",
        )
    elif asked and n.schedule is not None:
        if 0 < asked < 1:
            many = f"{n.warmup:,} of {n.num_steps:,} steps" if n.warmup is not None else "of a number of steps not known here"
            yield Finding(24, f"warmup_steps={asked:g} is a share of all steps, rounded up: {many}")
        yield Finding(23, f"the first step has the learning rate 0 and moves nothing{peak_of(n)}")
    if n.last_step_of_epoch is not None and n.effective_batch is not None:
        batches, rows = n.last_step_of_epoch
        yield Finding(
            32,
            f"the last step of an epoch has {rows:,} of {n.effective_batch:,} rows, in {batches} of {n.accumulation} "
            "micro-batches, and counts as a step like the others",
        )
    if n.repeated and n.rows is not None:
        yield Finding(
            65,
            f"an epoch has {n.rows + n.repeated:,} rows in place of {n.rows:,}: {n.repeated:,} come again, so that all "
            f"{n.world} processes have as many in its last step",
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
    if case.has_own_optimizer:
        return
    decay = a.number("weight_decay")
    if decay == 0:
        yield Finding(
            21,
            f"weight_decay=0{a.from_default('weight_decay')}: nothing is decayed, where torch.optim.AdamW has 0.01 for all "
            "parameters and the tutorials' usual value is 0.01",
        )
    elif decay is not None:
        parts = "biases, nn.LayerNorm, and names with norm in them"
        if model is not None:
            (many, size), (spared, spared_size) = model.decayed, model.spared
            parts = f"{spared} tensors ({spared_size:,} parameters), {parts}; {many} tensors ({size:,} parameters) are decayed"
        yield Finding(20, f"weight_decay={decay:g} spares {parts}")
        if model is not None and model.decayed_vectors:
            names = ", ".join(model.decayed_vectors[:2])
            yield Finding(
                20,
                f"{len(model.decayed_vectors)} vectors are decayed all the same, neither class nor name spares them: {names}",
            )
    optimizer = a.text("optim")
    if optimizer in ("adamw_torch_fused", "adamw_torch"):
        kind = "the fused AdamW" if optimizer.endswith("fused") else "AdamW, not the fused one"
        yield Finding(
            22,
            f"optim={optimizer}{a.from_default('optim')}: {kind} of torch, betas "
            f"{a.get('adam_beta1')} and {a.get('adam_beta2')}",
        )
