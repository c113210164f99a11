"""Log lines: what stands in metrics.jsonl, and what a person reads of it.

metrics.jsonl holds one JSON object a line. A train line: ``loss`` is the mean over the items of all steps since the line
before, ``learning_rate`` the one the step used, ``grad_norm`` that of the step, before clipping; ``num_examples`` and
``num_tokens`` count from the start of the run; rates are over wall time without evaluation and saving. A resumed run
cuts the file back to where its checkpoint was written, so every step stands once.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from engine.atomic import appending
from engine.data.plan import Position
from engine.errors import ResourceError
from engine.memory.usage import peak_memory_gb
from engine.model.flops import FlopCount
from engine.record.figures import Evaluation, by_set, figure_text
from engine.record.tally import Tally, waste_text
from engine.state import StepRecord, TrainState


class MetricsFile:
    """metrics.jsonl, appended to. With several ranks rank 0 writes; the others (``is_main`` false) go through the motions."""

    def __init__(self, path: Path, *, is_main: bool):
        self.folder, self._place = path.parent, path.parent.stat()
        self.stream: BinaryIO = appending(path) if is_main else tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()

    def write(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Append a line, and return it as it stands there: NaN and infinity, which JSON has not, as None."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self.stream.write(json.dumps(clean, allow_nan=False).encode() + b"\n")
        self.stream.flush()
        return clean

    def synced_bytes(self) -> int:
        """The length of the file, all of which is on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return self.stream.tell()

    def cut_to(self, num_bytes: int) -> None:
        """Cut off later lines: those of steps that are done again."""
        self.stream.truncate(min(num_bytes, os.fstat(self.stream.fileno()).st_size))
        self.stream.seek(0, os.SEEK_END)

    def check_in_place(self) -> None:
        """Raises ResourceError where the file's folder is not the one that it was opened in: it was moved, or removed."""
        if not self.folder.is_dir() or not os.path.samestat(self.folder.stat(), self._place):
            raise ResourceError(
                f"{self.folder} was moved, replaced or removed while the run went on, and nothing more is written there: put "
                "it back, or name its new place with --output-dir, and --resume continues from its newest checkpoint"
            )

    def close(self) -> None:
        self.stream.close()


def train_line(
    at: Position, record: StepRecord, window: Tally, timed: Tally, total: Tally, seconds: float, rates: Rates
) -> dict[str, Any]:
    """The line of a step: ``window`` since the last line, ``timed`` the same in this process, which took ``seconds``."""
    tflops, mfu = rates.of(timed, seconds)
    return {
        "kind": "train", "step": at.step, "epoch": round(at.epochs_done, 4), "loss": window.loss,
        "grad_norm": float(record.grad_norm), "learning_rate": float(record.learning_rate),
        "num_examples": total.num_examples, "num_tokens": total.num_tokens,
        "steps_per_second": timed.num_steps / seconds,
        "examples_per_second": timed.num_examples / seconds,
        "tokens_per_second": timed.num_tokens / seconds,
        "padding_waste": round(window.padding_waste, 4), "waste_if_padded": round(window.waste_if_padded, 4),
        "mfu": mfu, "tflops": tflops, "memory_gb": peak_memory_gb(rates.state.device), "seconds": rates.state.clock.take(),
    }  # fmt: skip


class Rates:
    """Floating-point operations per second, where the model's are counted. ``peak_flops``: of all devices; None: unknown."""

    def __init__(self, state: TrainState, count: FlopCount | None, peak_flops: float | None):
        self.state, self.count, self.peak_flops = state, count, peak_flops

    def of(self, timed: Tally, seconds: float) -> tuple[float | None, float | None]:
        """(TFLOP/s, model FLOPs utilisation) of what was done in these seconds; None where it is not known."""
        flops = self.count(timed.num_tokens, timed.sum_squares, timed.num_examples, timed.num_items) if self.count else None
        tflops = flops / seconds / 1e12 if flops else None
        return tflops, tflops * 1e12 / self.peak_flops if tflops and self.peak_flops else None


def epoch_line(at: Position, epoch: Tally) -> dict[str, Any]:
    """The line of an epoch."""
    return {"kind": "epoch", "step": at.step, "epoch": round(at.epochs_done, 4), "loss": epoch.loss,
            "num_steps": epoch.num_steps, "padding_waste": round(epoch.padding_waste, 4)}  # fmt: skip


def epoch_text(at: Position, epoch: Tally) -> str:
    """The same, for the reader."""
    return f"epoch {at.epochs_done:g}: mean loss {epoch.loss:.4f} over {epoch.num_steps} step{'s' * (epoch.num_steps != 1)}"


def evaluation_line(at: Position, result: Evaluation) -> dict[str, Any]:
    """The line of an evaluation."""
    return {"kind": "eval", "split": "eval", "step": at.step, "epoch": round(at.epochs_done, 4), **result.line()}


def evaluation_text(at: Position, result: Evaluation, best: str | None) -> str:
    """The same, for the reader; ``best``: the figure that has never been better."""
    sets = by_set(result.figures).items()
    text = "; ".join(
        ", ".join(f"{each}{'/' * bool(each)}{name} {figure_text(value)}" for name, value in figures.items())
        for each, figures in sets
    )
    return f"epoch {at.epochs_done:g}: evaluation {text}" + (f" (best {best} so far)" if best else "")


def bar_text(line: Mapping[str, Any]) -> str:
    """A train line, behind the progress bar."""
    return (
        f"loss {line['loss']:.4f}, lr {line['learning_rate']:.1e}, {line['examples_per_second']:,.1f} examples/s, "
        f"{line['padding_waste']:.0%} padding"
    )


def line_text(line: Mapping[str, Any], window: Tally, num_steps: int) -> str:
    """A train line where there is no terminal, in the place of the bar."""
    mfu, tflops = line["mfu"], line["tflops"]
    work = waste_text(window) + (f", MFU {mfu:.0%}" if mfu else f", {tflops * 1000:,.0f} GFLOP/s" if tflops else "")
    return (
        f"step {line['step']}/{num_steps}  loss {line['loss']:.4f}  grad_norm {line['grad_norm']:.3f}  "
        f"lr {line['learning_rate']:.2e}  {line['steps_per_second']:.2f} steps/s  "
        f"{line['examples_per_second']:.1f} examples/s  {line['tokens_per_second']:,.0f} tokens/s  {work}  "
        f"{line['memory_gb']:.1f} GiB"
    )


def rank_texts(line: Mapping[str, Any]) -> Iterator[str]:
    """A line for each rank, with ``--log-ranks``."""
    for rank, own in enumerate(line.get("ranks", [])):
        phases = ", ".join(f"{name} {value:.2f} s" for name, value in own["seconds"].items())
        yield f"  rank {rank}: {own['tokens_per_second']:,.0f} tokens/s; {phases}"
