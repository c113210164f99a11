"""Every architecture that transformers knows for classification, masked and causal language models: which are packed, padded,
refused with a reason. Each is a tiny random model in a process of its own.

    python -m bench architectures                                   all; exit code 1 if one fails
    python -m bench architectures --only bert gpt2 --tasks mlm      some of them
    python -m bench architectures --write                           all, into docs/architectures.md

In the table: packed (rows end to end, proven equal to padded), padded (and why), refused (in one line, before training), not
tried (the library itself cannot run it on texts alone, or not here).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.flags import make_parser

if TYPE_CHECKING:
    from bench.architectures.try_one import Verdict

TASKS = ("classification", "mlm", "clm")
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


def main(argv: list[str]) -> int:
    parser = make_parser("architectures", __doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="architectures, by their model_type")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="which tasks")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for each")
    options = parser.parse_args(argv)
    from bench.reliability.forked import warm_up

    warm_up()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PLAINLOOP_CACHE"] = cache
        found = []
        for verdict in verdicts(options.tasks, options.only, options.seconds):
            found.append(verdict)
            print(f"{verdict.task:<15} {verdict.architecture:<28} {verdict.what:<10} {verdict.why}", flush=True)
    return 1 if any(verdict.what == "fault" for verdict in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
