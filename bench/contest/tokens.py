"""Token arrays for a machine without texts, tokenizer or Hub.

    python -m bench tokens OUT.npz [flags]       where the texts are; elsewhere: --tokens OUT.npz

The file holds the ids of all texts in one array, where each begins, and their labels.
"""

from __future__ import annotations

from pathlib import Path

from bench.contest.flags import add_workload_flags
from bench.flags import make_parser
from engine.errors import UsageError


def main(argv: list[str]) -> int:
    parser = make_parser("tokens", __doc__)
    add_workload_flags(parser)
    parser.add_argument("output", type=Path, help="the .npz file")
    options = parser.parse_args(argv)
    if options.output.suffix != ".npz":
        raise UsageError(f"{options.output}: name a file that ends in .npz, by which --tokens knows it")
    options.max_length = options.max_length or 512
    from bench.contest.setting import make_workload  # now, for torch takes seconds

    workload = make_workload(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    workload.save(options.output)
    print(f"{options.output}: {workload.name}, {workload.lengths.sum():,} tokens")
    return 0
