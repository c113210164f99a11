"""The flags that the commands of the contest share."""

from __future__ import annotations

from argparse import ArgumentParser

from bench.contest import tracks
from bench.flags import at_least


def add_workload_flags(parser: ArgumentParser) -> None:
    """What is trained on what: the same flags in every part of the bench."""
    parser.add_argument(
        "--model",
        default="minilm",
        help="minilm (offline extra), folder, Hub name, random:{bert,distilbert,gpt2,llama,tiny,...}",
    )
    parser.add_argument("--data", default="imdb", help="imdb, yelp, random, or a CSV file")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument(
        "--tokens", help="an .npz file made by python -m bench tokens: neither texts nor a tokenizer are needed"
    )
    parser.add_argument("--rows", type=at_least(1), default=4000, help="random subset of the texts (of --tokens: all rows)")
    parser.add_argument("--batch-size", type=at_least(1))
    parser.add_argument("--max-length", type=at_least(2), help="in tokens; longer rows are cut")
    parser.add_argument("--steps", type=at_least(1), help="optimizer steps in a window; track overhead has its own number")
    parser.add_argument("--windows", type=at_least(1), help="of each contender, in turn")
    parser.add_argument("--warmup", type=at_least(1), help="steps before the first window")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--allocator", choices=("default", "mallopt"), default="default", help="of all processes alike")
    parser.add_argument("--results", help="JSON file that rows are added to (default: bench/results/bench-DEVICE.json)")
    parser.add_argument("--budget", type=at_least(0, float), help="seconds after which a contest begins no further window")
    parser.add_argument(
        "--ready-budget", type=at_least(0, float),
        help="seconds for a contender's compilation and warm-up; then it is out (default: half of --budget)",
    )  # fmt: skip
    parser.add_argument(
        "--matmul-sizes", type=at_least(1), nargs="+", default=[2048, 4096], help="of the measured matrix products"
    )
    parser.add_argument("--no-pictures", action="store_true", help="rows and tables only")
    parser.add_argument("--quick", action="store_true", help="within ten minutes on two cores; not for quoting")


def add_compare_flags(parser: ArgumentParser) -> None:
    add_workload_flags(parser)
    parser.add_argument("--track", nargs="+", choices=list(tracks.TRACKS), help="default: all")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16"), help="of track S (default: fp32, and bf16 if native)"
    )
    parser.add_argument("--systems", nargs="+", choices=tracks.SYSTEMS, default=list(tracks.SYSTEMS))
    parser.add_argument(
        "--contender", action="append", default=[], metavar="FILE.py:FUNCTION",
        help="a loop of your own beside them, train(job, workload, model, gate) as in bench/contest/contenders/plain_loop.py; "
        "the file is run",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compiled rows in track B on a CPU, too")
