"""Random flipped bits and truncations in the files of a run's newest checkpoint."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.reliability.save_calls import newest_in
from engine.checkpoint.store import newest, open_checkpoint, steps_in
from engine.errors import ModelError


def damage(root: Path, number: int, seed: int) -> dict[str, Any]:
    """Flip a bit or cut off the end of one file of the newest checkpoint: the older one must be taken, with a warning."""
    generator = np.random.default_rng(seed)
    older, newer = (root / f"step-{step:08d}" for step in steps_in(root)[-2:])
    expected = dict(open_checkpoint(older))
    files = sorted(newer.iterdir())
    struck: Counter[str] = Counter()
    wrong = []
    for _ in range(number):
        path = files[generator.integers(len(files))]
        whole = path.read_bytes()
        harmed, how = bytearray(whole), "a bit flipped"
        if generator.integers(4):
            harmed[generator.integers(len(harmed))] ^= 1 << int(generator.integers(8))
        else:
            harmed, how = harmed[: generator.integers(len(harmed))], "cut short"
        path.write_bytes(bytes(harmed))
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = newest_in(root)
        path.write_bytes(whole)
        struck[f"{path.name}, {how}"] += 1
        if found != expected or "trying an older checkpoint" not in said.getvalue():
            wrong.append(f"{path.name}, {how}")
    return {"number": number, "detected": number - len(wrong), "struck": dict(sorted(struck.items())), "wrong": wrong,
            "all_damaged_is_refused": all_damaged_is_refused(root), "seed": seed}  # fmt: skip


def all_damaged_is_refused(root: Path) -> bool:
    kept = {path: path.read_bytes() for path in root.glob("step-*/model.safetensors")}
    for path, whole in kept.items():
        path.write_bytes(whole[:-1])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            newest(root)
    except ModelError as error:
        return "is whole" in str(error)
    finally:
        for path, whole in kept.items():
            path.write_bytes(whole)
    return False
