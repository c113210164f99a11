"""Random flipped bits and truncations in the files of a run's newest checkpoint, and in those of the cache."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.reliability.save_calls import newest_in
from engine.checkpoint.store import newest, open_checkpoint, steps_in
from engine.data import cache
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
        harmed, how = harm(whole, generator)
        path.write_bytes(harmed)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = newest_in(root)
        path.write_bytes(whole)
        struck[f"{path.name}, {how}"] += 1
        if found != expected or "trying an older checkpoint" not in said.getvalue():
            wrong.append(f"{path.name}, {how}")
    return {"number": number, "detected": number - len(wrong), "struck": dict(sorted(struck.items())), "wrong": wrong,
            "all_damaged_is_refused": all_damaged_is_refused(root), "seed": seed}  # fmt: skip


def harm(whole: bytes, generator: np.random.Generator) -> tuple[bytes, str]:
    """A bit flipped, or, one time in four, the end cut off; and which."""
    if generator.integers(4):
        harmed = bytearray(whole)
        harmed[generator.integers(len(harmed))] ^= 1 << int(generator.integers(8))
        return bytes(harmed), "a bit flipped"
    return whole[: generator.integers(len(whole))], "cut short"


def damage_cache(number: int, seed: int) -> dict[str, Any]:
    """Damage one file of an entry that a run has left in the cache: it must be made anew, and be as it was."""
    generator = np.random.default_rng(seed)
    entries = [path.parent for path in sorted(cache.cache_folder().glob(f"*/*/{cache.MANIFEST}"))]
    good = {entry: {path.name: path.read_bytes() for path in entry.iterdir()} for entry in entries}
    struck: Counter[str] = Counter()
    wrong = []
    for _ in range(number):
        entry = entries[generator.integers(len(entries))]
        name = sorted(good[entry])[generator.integers(len(good[entry]))]
        harmed, how = harm(good[entry][name], generator)
        (entry / name).write_bytes(harmed)
        times: list[int] = []

        def write(folder: Path, entry: Path = entry, times: list[int] = times) -> None:
            times.append(1)
            for name, content in good[entry].items():
                if name != cache.MANIFEST:
                    (folder / name).write_bytes(content)

        cache.entry(entry.parent.name, entry.name, write)
        what = f"{entry.parent.name}: {name}, {how}"
        struck[what] += 1
        if len(times) != 1 or {path.name: path.read_bytes() for path in entry.iterdir()} != good[entry]:
            wrong.append(what)
            for path, content in good[entry].items():
                (entry / path).write_bytes(content)
    return {
        "number": number,
        "detected": number - len(wrong),
        "struck": dict(sorted(struck.items())),
        "wrong": wrong,
        "seed": seed,
    }


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
