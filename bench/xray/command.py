"""``python run.py xray SCRIPT_OR_JSON``: what Trainer would do with these arguments, and the same run with Plainloop.

The script is read and never run. Without ``--model`` and ``--data`` nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from engine.console import say_lines
from engine.errors import UsageError
from engine.installed import program
from engine.settings.fields import require, setting, user_path

WIDTH = 124
WHEN = {"no": "none", "epoch": "at the end of each epoch", "best": "at each new best evaluation"}  # strategies in words


@dataclass(frozen=True)
class XrayConfig:
    """Settings of ``xray``."""

    number: int | None = setting(None, "of several TrainingArguments in the script: which, counted from 1")
    line: int | None = setting(None, "the same by a line that it stands on")
    model: str | None = setting(
        None, "directory of the model, or its name if it is cached: decay groups, accumulation; needs seconds"
    )
    model_class: str | None = setting(
        None,
        "the class that is trained, such as AutoModelForSequenceClassification (default: the script's, else the model's own)",
    )
    data: str | None = setting(None, "training data, CSV, JSONL or Parquet: steps and padding are measured on it")
    text_column: str = setting("text", "its column with the text")
    text_pair_column: str | None = setting(None, "its column with the second text of a pair")
    tokenizer: str | None = setting(None, "directory of the tokenizer (default: the model's)")
    max_length: int | None = setting(None, "texts are cut to so many tokens (default: the script's, else the tokenizer's own)")
    num_rows: int | None = setting(None, "rows of training data, where --data is not at hand")
    num_eval_rows: int | None = setting(None, "rows of evaluation data")
    num_processes: int = setting(1, "processes that train together, one for each GPU")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

    def __post_init__(self) -> None:
        for name in ("max_length", "num_rows", "num_eval_rows"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        require(self, "num_processes", self.num_processes >= 1, "must be at least 1")


def xray(flags: XrayConfig, files: Sequence[str], find: Any = None) -> None:
    """Print it. Raises UsageError, DataError, ModelError."""
    if len(files) != 1:
        raise UsageError(f"give one script or JSON file: {program()} xray train.py (found {len(files)})")
    if flags.data is not None and flags.num_rows is not None:
        raise UsageError("--data and --num-rows both say how many rows there are: give one of them")
    if flags.data is not None and flags.model is None and flags.tokenizer is None:
        raise UsageError("--data needs a tokenizer to measure the rows with: give --model DIR or --tokenizer DIR")
    case = look(flags, files[0])
    from bench.xray.translate import translate

    command = translate(case, model=flags.model or "", data=flags.data or "")
    say_lines("\n".join([*described(case), *bites(case), *here(case, command)]))


def look(flags: XrayConfig, file: str) -> Any:
    """All that is known of the run, as a Case."""
    from bench.xray.arguments import resolve
    from bench.xray.case import Case
    from bench.xray.numbers import Numbers
    from bench.xray.script import read

    given = read(user_path(file), flags.number, flags.line)
    arguments, clues = resolve(given), given.clues
    model = padding = None
    if flags.model is not None:
        from bench.xray.model import look_at

        model = look_at(flags.model, flags.model_class or clues.model_class)
    numbers = Numbers(arguments, flags.num_rows, flags.num_eval_rows, flags.num_processes)
    if flags.data is not None:
        from bench.xray.data import measure, read_lengths

        columns = [flags.text_column, *([flags.text_pair_column] if flags.text_pair_column else [])]
        lengths = read_lengths(flags.data, columns, flags.tokenizer or flags.model or "", flags.max_length or clues.max_length)
        numbers = dataclasses.replace(numbers, rows=len(lengths))
        if numbers.per_device is not None:
            seed = arguments.get("seed") if arguments.get("data_seed") is None else arguments.get("data_seed")
            grouped = arguments.text("train_sampling_strategy") == "group_by_length"
            padding = measure(
                lengths, numbers.per_device, seed if isinstance(seed, int) else 42,
                grouped=numbers.per_device * (numbers.accumulation or 1) if grouped else 0, drop_last=bool(numbers.drops_last),
                fixed=(flags.max_length or clues.max_length) if clues.pads_to_max_length else None,
            )  # fmt: skip
    return Case(arguments, numbers, clues, model, padding, given.notes)


# ------------------------------------------------------------------------------------------------------------- what is printed


def described(case: Any) -> list[str]:
    """The numbers that follow, and what the file does not tell."""
    from bench.xray.arguments import NOT_LITERAL

    a, n = case.arguments, case.numbers
    lines = [f"{a.where}: {a.kind}, as transformers {version('transformers')} takes it; the file was read, not run"]
    if n.effective_batch is not None:
        processes = counted(n.world, "process") if n.world == 1 else f"{n.world} processes"
        parts = f"{n.per_device} per device x {n.accumulation} accumulated x {processes}"
        lines.append(row("batch", f"{n.effective_batch:,} examples a step = {parts}"))
    lines.append(row("steps", steps(n)))
    lines.append(row("rate", rates(case)))
    for name, what in (("logging", "log lines"), ("eval", "evaluations"), ("save", "checkpoints")):
        strategy, many = a.text(f"{name}_strategy"), n.times(name)
        if strategy is not None:
            how = (
                f"every {counted(n.every(name), 'step')}"
                if strategy == "steps" and n.every(name)
                else WHEN.get(strategy, strategy)
            )
            number = f"{many:,}, " if many else "" if many is None or strategy == "no" else "none, "
            lines.append(row(what, f"{number}{how}{a.from_default(f'{name}_strategy')}"))
    if case.model is not None:
        lines.append(row("model", f"{case.model.name}, {case.model.num_parameters:,} parameters"))
    lines += [row("not known", f"{name} = {value}") for name, value in a.unknown]
    if a.own:
        lines.append(row("not looked at", f"of {a.kind}'s own: {', '.join(a.own)}"))
    if others := sorted(name for name, value in (a.defaults or {}).items() if value is NOT_LITERAL and name not in a.values):
        lines.append(row("not known", f"{', '.join(others)}: not given, and {a.kind} has defaults of its own"))
    if a.defaults is None:
        lines.append(
            row("not known", f"what is not given: {a.kind} has defaults of its own, and its package is not installed here")
        )
    if case.has_own_optimizer:
        lines.append(
            row("not known", "optimizer and schedule: the script hands Trainer its own, these arguments do not decide")
        )
    return lines + [row("not known", text) for text in case.notes]


def steps(n: Any) -> str:
    if n.num_steps is None:
        return "not known without the number of rows: --num-rows N, or --data FILE --tokenizer DIR"
    if n.max_steps is not None and n.steps_per_epoch is None:
        return f"{n.num_steps:,} (max_steps)"
    per_epoch = f"{n.steps_per_epoch:,} an epoch, of {n.micro_batches:,} micro-batches; {n.rows:,} rows"
    return f"{n.num_steps:,} = {n.num_steps / n.steps_per_epoch:.4g} epochs of {per_epoch}"


def rates(case: Any) -> str:
    a, n = case.arguments, case.numbers
    peak, warmup = a.number("learning_rate"), n.warmup
    if peak is None:
        return "not known"
    rise = "" if warmup is None else ", no warm-up" if not warmup else f", {counted(warmup, 'step')} of warm-up"
    text = f"{n.schedule or 'a schedule not known'}, peak {peak:g}{a.from_default('learning_rate')}{rise}"
    first, last = n.rate(1), n.num_steps and n.rate(n.num_steps)
    return text if first is None or last is None else f"{text}; first step {first:.3g}, last step {last:.3g}"


def bites(case: Any) -> list[str]:
    """The findings, each with its row of the page; then what keeps it from starting."""
    from bench.xray.case import ALWAYS, LEARNED, PAGE
    from bench.xray.findings import find
    from bench.xray.refusals import deprecated, refusals

    lines = [row("deprecated", text) for text in deprecated(case.arguments)]
    if refused := refusals(case.arguments):
        lines += ["", "it does not start as it stands:", *(wrapped("  - ", text) for text in refused)]
    found = find(case)
    for title, is_learned in (("what changes the training", True), ("what changes what you see, keep or wait for", False)):
        lines += ["", f"{title} (rows of {PAGE}):"]
        some = [finding for finding in found if (finding.row in LEARNED) == is_learned]
        lines += [wrapped(f"  {finding.row:>2}  ", f"{finding.title}: {finding.said}") for finding in some]
    return [*lines, wrapped("      ", f"and in every run, whatever the arguments: {', '.join(map(str, ALWAYS))}")]


def here(case: Any, command: Any) -> list[str]:
    """The same run with Plainloop."""
    from bench.xray.translate import differences

    typed = textwrap.wrap(command.text, WIDTH - 4, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    lines = ["", "the same run with Plainloop:", *(f"  {line} \\" for line in typed[:-1]), f"  {typed[-1]}"]
    changed = ", ".join(f"{name} {theirs} (ours {ours})" for name, theirs, ours in differences(case.arguments))
    if changed:
        lines.append(wrapped("  ", f"Trainer's defaults that are not ours are in it: {changed}"))
    if ("batching", "bucketed") not in command.flags:
        lines.append(wrapped("  ", "without --batching the rows lie end to end, unpadded: the same to rounding, and faster"))
    if command.left:
        lines += ["  not in it:", *(wrapped("  - ", f"{name}: {why}") for name, why in command.left)]
    return lines


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def row(name: str, text: str) -> str:
    return wrapped(f"{name:<14}", text)


def wrapped(start: str, text: str) -> str:
    """Lines that hang under the first; a word is never cut."""
    keep = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), **keep))  # type: ignore[arg-type]
