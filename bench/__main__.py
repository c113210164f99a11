"""Plainloop beside a plain loop, Accelerate, Trainer and Lightning Fabric.

python -m bench [flags]                      the comparison: tracks D, S, B and overhead
python -m bench --quick                      in ten minutes, not for quoting
python -m bench levers [flags]               what each lever is worth, and where a step's time goes
python -m bench steps --task imdb --steps 20 steps per second of one configuration of run.py
python -m bench tokens OUT.npz [flags]       token arrays for a machine without texts, then: --tokens OUT.npz
python -m bench plot [--results FILE]        the pictures again, from the rows that were kept
python -m bench --gpu [PART] --tokens FILE   a GPU session in parts of at most nine minutes
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from bench.contest import compare, gpu, pictures


def main(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("compare", argv)
    if command == "steps":
        from bench import steps

        return steps.main(rest)
    if command == "levers":
        from bench.contest import levers

        return levers.main(rest)
    parser = ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if command == "compare":
        compare.add_compare_flags(parser)
        parser.add_argument("--gpu", nargs="?", const="print", choices=("print", *gpu.PARTS), metavar="PART")
        options = parser.parse_args(rest)
        gpu.run(options.gpu, options) if options.gpu else compare.compare(options)
    elif command == "tokens":
        compare.add_workload_flags(parser)
        parser.add_argument("output", type=Path)
        options = parser.parse_args(rest)
        options.max_length = options.max_length or 512
        workload = compare.make_workload(options)
        workload.save(options.output)
        print(f"{options.output}: {workload.name}, {workload.lengths.sum():,} tokens")
    elif command == "plot":
        parser.add_argument("--results", type=Path, nargs="*", help="default: all of bench/results/bench-*.json")
        options = parser.parse_args(rest)
        for path in options.results or sorted((Path(__file__).parent / "results").glob("bench-*.json")):
            for picture in pictures.draw(path):
                print(picture)
    else:
        parser.error(f"unknown command {command!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
