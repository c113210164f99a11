"""Every architecture that transformers knows for classification, for masked and causal language models, and for writing one
text from another: which are packed, padded, refused with a reason. Each is a tiny random model in a process of its own.

    python -m bench architectures                                   all; exit code 1 if one fails
    python -m bench architectures --only bert gpt2 --tasks mlm      some of them
    python -m bench architectures --write                           all, into docs/architectures.md

In the table: packed (rows end to end, proven equal to padded), padded (and why not packed; "padding matters" where a text
beside a longer one has another answer, in the library itself), refused (in one line), not tried (no tiny model of it: the
library cannot make or run one on texts alone, or the configuration's fields do not shrink it).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.flags import at_least, make_parser
from bench.machine import page_of

if TYPE_CHECKING:
    from bench.architectures.try_one import Verdict

TASKS = ("classification", "mlm", "clm", "seq2seq")
KINDS = ("packed", "padded", "refused", "not tried", "fault")
SECONDS = 120.0  # for one architecture


def verdicts(tasks: Sequence[str], only: Sequence[str], seconds: float) -> Iterable[Verdict]:
    """One after the other, each in a forked process."""
    from bench.architectures.try_one import Verdict, known, write_verdict
    from bench.reliability.forked import in_child

    for task in tasks:
        for architecture in known(task):
            if only and architecture not in only:
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                ended = in_child(lambda _: write_verdict(architecture, task, folder), folder / "log", seconds)  # noqa: B023
                if (folder / "verdict.json").exists():
                    yield Verdict(**json.loads((folder / "verdict.json").read_text()))
                else:
                    how = f"not done after {seconds:.0f} s" if ended.code is None else f"exit code {ended.code}"
                    log = (folder / "log").read_text().strip().splitlines()
                    yield Verdict(architecture, task, "fault", f"{how}: {log[-1] if log else ''}")


INTRODUCTION = """# Architectures

Which architectures of transformers are packed, so that no padding is computed, which are padded, and which are refused: to look
yours up, by its `model_type` in config.json. Nothing depends on this page: Plainloop checks each model when it is trained, and
says in a line what it does.

Written by `python -m bench architectures --write`: every architecture that transformers' Auto classes know, as a tiny random
model that is trained for two steps through the command line, evaluated, saved, loaded, and compared with the library's own
forward, a text at a time, within 1e-4.

- **packed**: the rows of a batch lie end to end, which is checked to be equal to padding.
- **padded**: each batch is padded to its longest row. That is right, and slower by the share of padding.
- **padded (padding matters)**: a text beside a longer one has another answer, in transformers itself; that is said, and
  evaluation and predict put texts of equal length together.
- **refused**: it cannot be trained on this task, which is one line and an exit code.
- **not tried**: no tiny model of it could be made, so nothing is known.
- **fault**: it went wrong, which is a defect.

Why a model is padded:

- *attention built in*: it computes attention by itself, and not through the interface by which it could be given a kernel that
  keeps rows apart.
- *an encoder and a decoder*: each row has two lengths, and only one can be laid end to end.
- *packed attention has no ...*: it hands attention something (a cap, sinks, a bias, chosen keys) that the packed kernel lacks.
- *packed and padded batches differ*: the check has found other logits or gradients.
- *... is for more than text*: it takes pictures or sound, too.
- Any other sentence is what the library raises for packed rows.
"""


def line_of(verdict: Verdict) -> str:
    """A row of the page, in short."""
    why = re.sub(r"^\w+ does not take packed batches \((.*?)\)(?= \(padding|$)", r"\1", verdict.why)
    why = re.sub(r"^[A-Z]\w+ has (its )?(?=attention|an encoder)", "", re.sub(r"on a small \w+ \(by [^)]*\)", "", why))
    why = why.replace("packed and padded batches differ ", "packed and padded batches differ").replace("|", "\\|")
    return f"| {verdict.architecture} | {verdict.what} | {why} |"


def page(found: Sequence[Verdict]) -> str:
    """docs/architectures.md."""
    import torch
    import transformers

    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32 on a CPU.\n"
    head = "| task | " + " | ".join(KINDS) + " | in all |\n|---|" + "---|" * (len(KINDS) + 1)
    parts = [INTRODUCTION, versions, head]
    for task in TASKS:
        kinds = [verdict.what for verdict in found if verdict.task == task]
        parts[-1] += f"\n| {task} | " + " | ".join(str(kinds.count(kind)) for kind in KINDS) + f" | {len(kinds)} |"
    for task in TASKS:
        rows = "\n".join(line_of(verdict) for verdict in found if verdict.task == task)
        parts.append(f"\n## `--task {task}`\n\n| architecture | | why |\n|---|---|---|\n{rows}")
    return "\n".join(parts) + "\n"


def main(argv: list[str]) -> int:
    parser = make_parser("architectures", __doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="architectures, by their model_type")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="which tasks")
    parser.add_argument("--seconds", type=at_least(0, float), default=SECONDS, help="time limit for each")
    parser.add_argument("--write", action="store_true", help="all of them, into docs/architectures.md")
    options = parser.parse_args(argv)
    if options.write and (options.only or len(options.tasks) < len(TASKS)):
        parser.error("--write is for all of them")
    target = page_of("architectures.md") if options.write else Path()
    from bench.reliability.forked import warm_up

    warm_up()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PLAINLOOP_CACHE"] = cache
        found = []
        for verdict in verdicts(options.tasks, options.only, options.seconds):
            found.append(verdict)
            print(f"{verdict.task:<15}{line_of(verdict)}", flush=True)
    if options.write:
        target.write_text(page(found), encoding="utf-8")
    return 1 if any(verdict.what == "fault" for verdict in found) else 0
