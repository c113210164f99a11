"""run.py where the disk is full, becomes read-only, or takes no more of a file; then again where there is room."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.reliability.lab import Lab, differences
from engine.checkpoint.store import open_checkpoint

FILE_LIMIT = 60_000  # bytes: more than a log, less than the tiny model


def fill_disks(lab: Lab, folder: Path) -> list[dict[str, Any]]:
    """run.py where there is no room, then again where there is: exit code 6 in one line, and the same end."""
    flags = ["--save-steps", "2", "--log-steps", "3"]
    undisturbed = lab.undisturbed(flags)
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints").glob("step-*/*"))
    place = folder / "disk"
    place.mkdir()
    rows = []
    if mount(place, size):
        try:
            rows.append(stopped_by("a full disk (tmpfs)", lab, flags, place / "run", undisturbed,
                                   mend=lambda: mount(place, 16 * size, "remount")))  # fmt: skip
            shutil.rmtree(place / "run")
            lab.run(flags, place / "run", lambda: die_after_step(7))
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            rows.append(stopped_by("a read-only file system (tmpfs)", lab, flags, place / "run", undisturbed,
                                   mend=lambda: mount(place, 16 * size, "remount,rw")))  # fmt: skip
        finally:
            subprocess.run(["umount", str(place)], check=True)
    else:
        print("  mounting is not allowed here: RLIMIT_FSIZE alone")
    rows.append(stopped_by(f"files of at most {FILE_LIMIT} bytes (RLIMIT_FSIZE)", lab, flags, place / "limited", undisturbed,
                           patch=limit_files))  # fmt: skip
    rows.append(stopped_by("no room for the finished model (RLIMIT_FSIZE)", lab, flags, place / "last", undisturbed,
                           patch=limit_files_at_the_end))  # fmt: skip
    return rows


def die_after_step(step: int) -> None:
    from bench.reliability.kill_points import dies, step_is

    dies("engine.record.run:Run", "log", step_is(step))()


def limit_files() -> None:
    """Python ignores SIGXFSZ, so a write beyond it is an error."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def limit_files_at_the_end() -> None:
    import importlib

    fit: Any = importlib.import_module("engine.fit")
    finish = fit.write_model

    def limited(*arguments: Any) -> None:
        limit_files()
        finish(*arguments)

    fit.write_model = limited


def mount(place: Path, size: int, options: str = "") -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"{options + ',' if options else ''}size={size}", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def stopped_by(
    what: str,
    lab: Lab,
    flags: Sequence[str],
    output: Path,
    undisturbed: Path,
    *,
    patch: Callable[[], None] = lambda: None,
    mend: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """One row."""
    before = len(lab.log.read_text())
    stopped = lab.run(flags, output, patch)
    said = lab.log.read_text()[before:].strip().splitlines()
    checkpoints = [path for path in output.glob("checkpoints/step-*") if open_checkpoint(path)]
    mend()
    resumed = lab.run(flags, output)
    row = {
        "what": what, "exit_code": stopped.code, "said": re.sub(r"\S*/disk/", "", said[-1]) if said else "",
        "traceback": any("Traceback" in line for line in said), "whole_checkpoints_left": len(checkpoints),
        "resumed_exit_code": resumed.code, "differences": differences(undisturbed, output) if resumed.code == 0 else None,
    }  # fmt: skip
    row["as_it_must"] = (row["exit_code"], row["traceback"], row["resumed_exit_code"], row["differences"]) == (6, False, 0, [])
    print(f"  {what}: exit code {row['exit_code']}: {row['said']}", flush=True)
    return row
