"""Was the work equal? A row counts only if nothing here finds a reason against it.

What a contender did was seen by the gate and by torch's hook, not told by the contender: the rows of each batch, the
starting weights, and before each update the learning rate, the decay groups and the clipped gradient. The losses of the
check steps, without dropout and on the same batches for all, cover what no counter sees.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from bench.contest.job import Job
from bench.contest.workload import batches, batches_sha

# How far losses without dropout may lie apart, relative, beyond twice the spread of the padded contenders. fp32: sums in
# another order. tf32 keeps 11 bits of a factor, bf16 keeps 8 (one rounding is 0.2%, and they add up over the layers).
LOSS_TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "fp16": 2e-3}
NORM_FACTOR = 10  # gradients pass through every layer twice


def reasons(job: Job, done: Mapping[str, Any], lengths: np.ndarray, others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why this contender's row is void; [] if it is valid. ``others``: the padded contenders beside it, when done."""
    check, timed = done["check"], done["timed"]
    why = same_setup(job, check, timed, others)
    why += same_updates(job, check, timed)
    why += same_examples(job, check, timed, lengths)
    if not others:
        return [*why, "there is no padded contender beside it to check its losses against"]
    return why + same_losses(done, others)


def same_setup(job: Job, check: Mapping[str, Any], timed: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Starting weights, decay groups, dropout."""
    why = []
    if check["init_sha"] != timed["init_sha"]:
        why.append("it did not start the timed run from the weights of the check")
    if set(timed["groups"]) != {str(job.weight_decay), "0.0"}:
        why.append(f"weight decay is {', '.join(sorted(timed['groups']))}, not {job.weight_decay} and 0.0")
    if any(check["dropout"]):
        why.append("dropout was on in the check")
    for other in others:
        for name, what in (("init_sha", "starting weights"), ("groups", "decay groups"), ("dropout", "dropout")):
            if timed[name] != other["timed"][name]:
                why.append(f"other {what} than {other['system']}")
    return why


def same_updates(job: Job, check: Mapping[str, Any], timed: Mapping[str, Any]) -> list[str]:
    """Their number, learning rates and clipped gradients."""
    why = []
    for phase, name in ((check, "check"), (timed, "timed run")):
        rates, num_steps = phase["learning_rates"], len(phase["losses"])
        if len(rates) != num_steps:
            why.append(f"{len(rates)} updates in {num_steps} steps of the {name}")
        expected = [job.learning_rate * (1 - step / job.num_steps) for step in range(len(rates))]
        if not np.allclose(rates, expected, rtol=1e-6, atol=0):
            why.append(f"other learning rates in the {name}")
    if not all(norm <= job.max_grad_norm * 1.001 for norm in check["norms"]):
        why.append(f"gradients are not clipped to {job.max_grad_norm} (found {max(check['norms']):.3g})")
    return why


def same_examples(job: Job, check: Mapping[str, Any], timed: Mapping[str, Any], lengths: np.ndarray) -> list[str]:
    """The same rows in every step where the track says so, else as many; whole rows, each once an epoch."""
    why = []
    random_order = batches(dataclasses.replace(job, batching="padded"), lengths)
    num_steps = len(timed["losses"])
    if batches_sha(check["rows"]) != batches_sha(random_order[: len(check["losses"])]):
        why.append("other examples in the check")
    if job.batching != "bucketed":
        if batches_sha(timed["rows"]) != batches_sha(random_order[:num_steps]):
            why.append("other examples per step")
    else:
        per_epoch = -(-len(lengths) // job.batch_size)
        sizes, short = [len(rows) for rows in timed["rows"]], len(lengths) % job.batch_size
        partial = [size for size in sizes if size != job.batch_size]
        if len(sizes) != num_steps or any(size != short for size in partial) or len(partial) > math.ceil(num_steps / per_epoch):
            why.append("missing examples")
        for start in range(0, num_steps, per_epoch):
            seen = [row for rows in timed["rows"][start : start + per_epoch] for row in rows]
            if len(set(seen)) < len(seen):
                why.append("an example twice in an epoch")
    if timed["num_tokens"] != sum(int(lengths[row]) for rows in timed["rows"] for row in rows):
        why.append("texts were cut")
    return why


def same_losses(done: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Losses and gradient norms of the check within twice the others' spread, and rounding."""
    alike = [other for other in others if other["precision"] == done["precision"]] or others
    precisions = {done["precision"], *(other["precision"] for other in alike)}
    tolerance = max(LOSS_TOLERANCE["tf32" if p == "fp32" and done.get("tf32") else p] for p in precisions)
    why = []
    for name, factor in (("losses", 1), ("norms", NORM_FACTOR)):
        columns = [other["check"][name] for other in alike]
        mine = done["check"][name]
        if any(len(column) != len(mine) for column in columns):
            why.append(f"another number of {name} in the check")
            continue
        for step, value in enumerate(mine):
            values = [column[step] for column in columns]
            centre, spread = median(values), max(values) - min(values)
            if not abs(value - centre) <= 2 * spread + factor * tolerance * max(1.0, abs(centre)):
                why.append(f"step {step + 1} of the check: {name} {value:.6f}, others {centre:.6f}")
                break
    return why
