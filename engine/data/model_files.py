"""The files that a model consists of, by their hashes: what a run starts from, and what an adapter stands on.

One hash for both, and each file is read once in a process while it stays as it is. Next: artifacts/describe.py, model/lora.py.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken")


def folder_of(model: str, revision: str | None) -> Path | None:
    """The folder of a model: its own or, of one of the Hub, that in the Hub's cache; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        return Path(model)
    cached = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the model in a folder, by its name there; run.json is of the run. Raises OSError."""
    paths = [path for path in (*folder.glob("*"), *folder.glob("*/config.json")) if path.suffix in SUFFIXES]
    return {str(path.relative_to(folder)): digest(path) for path in sorted(paths) if path.name != "run.json"}


def weights_fingerprint(model: str, revision: str | None) -> str | None:
    """A hash of the model's files of weights; None where it has none of safetensors. Raises OSError."""
    folder = folder_of(model, revision)
    found = [digest(path) for path in sorted(folder.glob("*.safetensors"))] if folder else []
    return joined(found) if found else None


def joined(lines: list[str]) -> str:
    """One hash of several lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest(path: Path) -> str:
    """The sha256 of a file. Raises OSError."""
    status = path.stat()
    return _read(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _read(path: Path, stamp: tuple[int, ...]) -> str:
    """``stamp``: by which a file that has changed is known."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
