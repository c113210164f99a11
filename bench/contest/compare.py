"""Plainloop beside a plain loop, Accelerate, Trainer and Lightning Fabric: tracks one after the other, each a contest.

    python -m bench [flags]      tracks D, S, B and overhead
    python -m bench --quick      in ten minutes, not for quoting
    python -m bench --track LM --model random:gpt2      language models, on random tokens
    python -m bench compare OLD.json NEW.json           no contest: is what was measured slower than it was? (regression.py)

Each contender runs in a process of its own; their windows are interleaved. Rows are kept and printed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from argparse import ArgumentParser, Namespace
from typing import Any

from bench.contest import tracks
from bench.contest.flags import add_compare_flags
from bench.contest.regression import judge
from bench.flags import at_least, make_parser
from engine.errors import UsageError

OVERHEAD_STEPS = {True: 200, False: 500}


def main(argv: list[str]) -> int:
    parser = make_parser("compare", __doc__)
    parser.add_argument("files", nargs="*", help="two results files, an older and a newer one, to compare")
    parser.add_argument(
        "--tolerance", type=at_least(0, float), default=0.02, help="of two files: what may be lost (default: 0.02)"
    )
    add_compare_flags(parser)
    options = parser.parse_args(argv)
    if options.files:
        if len(options.files) != 2:
            raise UsageError(f"compare takes two results files, an older and a newer one, found {len(options.files)}")
        return judge(options.files, options.tolerance)
    compare(options)
    return 0


def compare(options: Namespace) -> list[dict[str, Any]]:
    """All tracks asked for; returns their rows."""
    from bench.contest import pictures
    from bench.contest.language import language_workload
    from bench.contest.setting import Setting, refuse_foreign
    from bench.contest.worker import resolve
    from bench.contest.workload import model_config, random_workload
    from engine.precision import has_native_bf16
    from engine.settings.own import is_own

    for name in options.contender:  # refused before anything is measured
        if not is_own(name):
            raise UsageError(f"--contender {name}: name a file and a function in it, FILE.py:FUNCTION")
        resolve(name)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(options, folder)
        chosen = options.track or (["D", "S", "overhead"] if options.quick else list(tracks.USUAL))
        native = has_native_bf16(setting.device)
        precisions = options.precision or (["fp32"] if options.quick or not native else ["fp32", "bf16"])
        rows: list[dict[str, Any]] = []
        for track in chosen:
            for precision in precisions if track == "S" else ["fp32"]:
                base = setting.base()
                if track == "overhead":
                    workload = random_workload(400, 8, 8)
                    steps = OVERHEAD_STEPS[options.quick] if options.steps >= 2 else options.steps
                    base = tracks.overhead_base(base, setting.store(workload, "overhead"), steps)
                elif track == "LM":
                    vocabulary = model_config(base.model, 2).vocab_size
                    workload = language_workload(options.rows, base.max_length, vocabulary)
                    refuse_foreign(workload, base.model, base.max_length)
                    base = dataclasses.replace(base, tokens=setting.store(workload, "language"))
                else:
                    workload = setting.workload
                    base = dataclasses.replace(base, tokens=setting.tokens)
                jobs = tracks.jobs_of(
                    track, base, setting.device, systems=options.systems, precision=precision, compile=options.compile,
                    own=options.contender,
                )  # fmt: skip
                what = f"{precision}, " if track == "S" else ""
                title = (
                    f"track {track} ({what}{tracks.TRACKS[track]}), {base.model}, batch {base.batch_size} x {base.max_length}"
                )
                rows += setting.hold(jobs, workload, title)
        if not options.no_pictures:
            pictures.draw(setting.results)
    return rows


def with_defaults(**given: Any) -> Namespace:
    """The options of a comparison from Python."""
    parser = ArgumentParser()
    add_compare_flags(parser)
    options = parser.parse_args([])
    for name, value in given.items():
        setattr(options, name, value)
    return options
