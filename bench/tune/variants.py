"""What is tried beside the flags as they are given: one thing changed at a time, in the order of what it is likely to bring."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.config import TrainConfig

SAME = "the same gradients"
ORDER = "other examples share a step"
ROUNDS = "other rounding"


@dataclass(frozen=True)
class Variant:
    """``what``: the thing that is changed; ``flags``: settings by name, as texts; ``threads``: of the processor, None: as they
    are; ``note``: what it does to what is learned."""

    what: str
    flags: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    note: str = SAME

    @property
    def name(self) -> str:
        """As it is typed, but for ``run.py`` between."""
        threads = [f"OMP_NUM_THREADS={self.threads}"] if self.threads else []
        return " ".join([*threads, *self.argv()]) or "as given"

    def argv(self) -> list[str]:
        return [f"--{name.replace('_', '-')}" + ("" if value == "true" else f" {value}") for name, value in self.flags.items()]

    def arguments(self) -> list[str]:
        """For the parser."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in self.flags.items()]


AS_GIVEN = Variant("")


@dataclass(frozen=True)
class Machine:
    """What the flags as they are given have come to."""

    device: str  # its kind
    layout: str
    precision: str
    threads: int
    cores: int
    has_bf16: bool
    is_additive: bool


def variants(config: TrainConfig, given: Collection[str], machine: Machine, *, try_compile: bool) -> list[Variant]:
    """``given``: the names of the settings that the user has typed, which are kept."""
    found: list[Variant] = []
    if "batching" not in given:
        found += [
            Variant("batching", {"batching": kind}, note=ORDER if "bucketed" in (kind, machine.layout) else SAME)
            for kind in ("packed", "bucketed", "padded")
            if kind != machine.layout
        ]
    found += micro_batches(config, machine)
    if machine.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        tried = [number for number in (machine.cores, machine.cores // 2, 1) if number >= 1 and number != machine.threads]
        found += [Variant("threads", threads=number) for number in dict.fromkeys(tried)]
    if "precision" not in given:
        there = {"cuda": ("bf16", "fp16", "fp32"), "cpu": ("bf16", "fp32")}.get(machine.device, ())
        found += [
            Variant("precision", {"precision": kind}, note=ROUNDS)
            for kind in there
            if kind != machine.precision and (kind != "bf16" or machine.has_bf16)
        ]
    if "workers" not in given:
        found += [Variant("workers", {"workers": str(number)}) for number in (1, 2) if number <= machine.cores]
    if "compile" not in given and (machine.device == "cuda" or try_compile):
        found.append(Variant("compile", {"compile": "true"}, note=ROUNDS))
    return found


def micro_batches(config: TrainConfig, machine: Machine) -> list[Variant]:
    """The examples of a step cut otherwise: a loss is a sum over them, divided once by all, so the gradients are the same."""
    if not machine.is_additive or config.tokens_per_batch is not None:
        return []
    step = config.batch_size * config.accumulation_steps
    sizes = [size for size in (config.batch_size * 4, config.batch_size * 2, config.batch_size // 2, config.batch_size // 4)
             if 1 <= size <= step and step % size == 0]  # fmt: skip
    return [Variant("micro-batch", {"batch_size": str(size), "accumulation_steps": str(step // size)}) for size in sizes]


def together(some: Sequence[Variant]) -> Variant:
    """All changes at once; of each thing one."""
    flags = {name: value for each in some for name, value in each.flags.items()}
    threads = next((each.threads for each in some if each.threads), None)
    notes = dict.fromkeys(each.note for each in some if each.note != SAME)
    return Variant("together", flags, threads, ", ".join(notes) or SAME)
