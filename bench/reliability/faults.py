"""A checkpoint is there in full or not at all, whatever the system does: every call of a save killed, and failed.

    python -m bench faults                 all parts, some minutes
    python -m bench faults calls damage    those parts

calls   a save over two older ones, with rotation: SIGKILL at each system call, and each error it can return, by strace
        (without strace at the calls that Python makes through the os module, which leaves out the writes themselves)
disk    run.py on a small file system that fills up and becomes read-only; where mounting is not allowed, under RLIMIT_FSIZE
damage  random flipped bits and truncations in every file of a run's newest checkpoint
cache   the same in every file that a run has left in the cache: the entry is made anew
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.flags import at_least, make_parser, one_of
from bench.machine import RESULTS, keep
from bench.reliability import forked
from bench.reliability.lab import tiny_lab

PARTS = ("calls", "disk", "damage", "cache")


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if all was as promised."""
    parser = make_parser("faults", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", type=one_of(PARTS), help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--damages", type=at_least(0), default=1000, help="random flips and truncations, of each of damage and cache"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random damage")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "faults-cpu.json", help="default: faults-cpu.json of bench/results"
    )
    options = parser.parse_args(argv)
    forked.warm_up()
    document = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        os.environ["PLAINLOOP_CACHE"] = str(folder / "cache")
        for part in options.parts or PARTS:
            began = time.perf_counter()
            print(f"{part}:", flush=True)
            document[part] = measure(part, folder, options)
            document[f"{part}_seconds"] = round(time.perf_counter() - began, 1)
            keep(options.results, document)
    print(summary(document))
    return 0 if is_clean(document) else 1


def measure(part: str, folder: Path, options: argparse.Namespace) -> Any:
    from bench.reliability.damage import damage, damage_cache  # now, for torch takes seconds
    from bench.reliability.full_disk import fill_disks
    from bench.reliability.save_calls import InPython, Strace, strike_calls

    if part == "calls":
        return strike_calls(folder, (Strace if shutil.which("strace") else InPython)(folder))
    lab = tiny_lab(folder / f"{part}-lab")
    if part == "disk":
        return fill_disks(lab, folder)
    run = lab.undisturbed(["--save-steps", "2"])
    return (
        damage_cache(options.damages, options.seed)
        if part == "cache"
        else damage(run / "checkpoints", options.damages, options.seed)
    )


def is_clean(document: dict[str, Any]) -> bool:
    harm = document.get("damage", {"wrong": [], "all_damaged_is_refused": True})
    return (
        not document.get("calls", {"wrong": []})["wrong"]
        and all(row["as_it_must"] for row in document.get("disk", ()))
        and not harm["wrong"]
        and harm["all_damaged_is_refused"]
        and not document.get("cache", {"wrong": []})["wrong"]
    )


def summary(document: dict[str, Any]) -> str:
    """The table."""
    lines = []
    if "calls" in document:
        found = document["calls"]
        lines.append(f"one save, {sum(found['calls'].values())} calls (by {found['by']}): {found['kills']} killed, "
                     f"{found['errors']} failed; not as promised: {len(found['wrong'])}")  # fmt: skip
        lines += [f"    {number:>4} {what}" for what, number in found["outcomes"].items()]
        lines += [f"    WRONG {row['call']} {row['struck']}: {row['fault']}" for row in found["wrong"]]
    for row in document.get("disk", ()):
        verdict = "then resumed to the same end" if row["as_it_must"] else f"WRONG: {row}"
        lines.append(
            f"{row['what']}: exit code {row['exit_code']}, {row['whole_checkpoints_left']} whole checkpoints left, {verdict}"
        )
    if "damage" in document:
        found = document["damage"]
        lines.append(f"damage: {found['detected']} of {found['number']} noticed, the older checkpoint taken; all damaged: "
                     f"{'refused' if found['all_damaged_is_refused'] else 'WRONG, not refused'}")  # fmt: skip
    if "cache" in document:
        found = document["cache"]
        lines.append(f"cache: {found['detected']} of {found['number']} noticed, and the entry made anew")
    return "\n".join(lines)
