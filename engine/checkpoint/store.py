"""Checkpoints on the disk, written so that no half one is ever used, and verified before one is.

A checkpoint is a directory ``step-NNNNNNNN`` of safetensors and JSON (no pickle), written under a temporary name, synced,
and renamed: the rename is the one commit point. MANIFEST.json holds size and sha256 of each file, because safetensors
does not notice a flipped bit. Files are hashed while they are written, and piece by piece when they are verified.
Format 1 holds each tensor in full; format 2, of a model that is spread over ranks, has one file of each rank with its rows.
Next: snapshot.py, what is in one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.atomic import sync
from engine.checked import MOST_BYTES, expect, open_regular, parse_object, read_bytes
from engine.checkpoint.tensor_file import TensorFile, Tensors, pieces
from engine.console import note
from engine.distributed.world import World
from engine.errors import ModelError, ResourceError

FULL, SHARDED = 1, 2  # formats
FORMAT = SHARDED  # the newest that is read
MIN_KEPT = 2  # one may turn out to be damaged
NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # another time it may be read
MOST_OF_MANIFEST = 1 << 20  # bytes of it, which has a hundred bytes for each file
NAME = re.compile(r"step-(\d{8,})")
UNCHANGED = ("model.", "optimizer.", "average.")  # kinds of tensors that only a step changes
PLAIN_NAME = re.compile(r"\w[\w.-]*")  # no way out of the directory


@dataclass(frozen=True)
class Linked:
    """A file of a checkpoint that stands, taken over as it is; ``entry``: in its manifest."""

    path: Path
    entry: Mapping[str, Any]


Content = bytes | TensorFile | Linked


class DamagedError(ModelError):
    """A checkpoint that is not what was written."""


# ------------------------------------------------------------------------------------------------------------ writing


def file_name(kind: str, rank: int = 0, size: int = 1) -> str:
    """What the file of one kind of tensor (``model``, ``optimizer``, ``rng``) is called; with several ranks each has one."""
    return f"{kind}.safetensors" if size == 1 else f"{kind}.rank-{rank:05d}-of-{size:05d}.safetensors"


def commit(root: Path, step: int, files: Mapping[str, Content], world: World | None = None) -> Path:
    """Write ``root/step-NNNNNNNN``; it is there in full or not at all. Raises ResourceError (disk full, not writable).

    With several ranks each writes files of its own, and rank 0 commits when all are on the disk: collective.
    """
    world = world or World(torch.device("cpu"))
    final = root / f"step-{step:08d}"
    temporary = root / f".tmp-{final.name}"

    def begin() -> None:
        with or_refused(final):
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed here
            root.mkdir(exist_ok=True)  # and not what is above it: the run's directory may have been moved away
            temporary.mkdir()

    def write() -> dict[str, Any]:
        if not temporary.is_dir():
            raise ResourceError(f"checkpoint {final} could not be written: --shard needs a file system that all nodes share")
        with or_refused(final):
            return {name: write_synced(temporary / name, content) for name, content in files.items()}

    def end() -> None:
        with or_refused(final):
            for name, entry in manifest.items():
                if (temporary / name).stat().st_size != entry["bytes"]:
                    raise OSError(errno.EIO, f"{name} has another size than was written")
            document = {"format": FULL if world.size == 1 else SHARDED, "step": step, "files": manifest}
            write_synced(temporary / "MANIFEST.json", sealed(document))
            sync(temporary)
            replaced = final.with_name(f".replaced-{final.name}")
            shutil.rmtree(replaced, ignore_errors=True)
            if final.exists() and any(isinstance(content, Linked) for content in files.values()):
                os.rename(final, replaced)  # the new one says more; killed here, the old one is named again by clean
            elif final.exists():  # not ours: what this run had there is gone or set aside by now
                set_aside(final)
            os.rename(temporary, final)  # the commit point
            shutil.rmtree(replaced, ignore_errors=True)
        try:
            sync(root)
        except OSError as error:
            note(f"warning: checkpoint {final} is written, but may not outlive a power cut ({error.strerror})")

    try:
        world.on_main_rank(begin)
        manifest = {name: entry for part in world.gather(world.on_all_ranks(write)) for name, entry in part.items()}
        world.on_main_rank(end)
    finally:
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


@contextmanager
def or_refused(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(f"checkpoint {final} could not be written: {error.strerror}; the older one stands") from error


def sealed(document: Mapping[str, Any]) -> bytes:
    """The manifest with a sha256 of itself: no other text says the same, so a flipped bit in it shows, too."""
    digest = hashlib.sha256(json.dumps(document, indent=1).encode()).hexdigest()
    return json.dumps({**document, "sha256": digest}, indent=1).encode()


def write_synced(path: Path, content: Content) -> dict[str, Any]:
    """Returns the file's manifest entry; its hash is of what was in memory, taken piece by piece on the way."""
    if isinstance(content, Linked):
        try:
            os.link(content.path, path)
        except OSError:  # some file systems know no links
            shutil.copyfile(content.path, path)
            sync(path)
        return dict(content.entry)
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as stream:
        for piece in [content] if isinstance(content, bytes) else pieces(content):
            digest.update(piece)
            size += stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def amended(root: Path, step: int, files: Mapping[str, Content]) -> dict[str, Content]:
    """The files of a checkpoint that stands, with a new state: tensors of model and optimizer, unchanged, are taken over."""
    final = root / f"step-{step:08d}"
    try:
        entries = expect(parse_object((final / "MANIFEST.json").read_bytes()), "files", dict)
    except (OSError, ValueError):  # it is gone, or damaged
        return dict(files)
    return {
        name: Linked(final / name, entries[name]) if name.startswith(UNCHANGED) and name in entries else content
        for name, content in files.items()
    }


# ------------------------------------------------------------------------------------------------------------ reading


class Verified(NamedTuple):
    """A file as it was when its sha256 was compared."""

    sha256: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True, eq=False)  # equal as mappings are
class Checkpoint(Mapping[str, bytes]):
    """A checkpoint each file of which has been verified: a mapping of file names to contents, read when asked for.

    It holds no content, so it may be sent to other ranks. What is read is compared again: bytes by their sha256, tensors
    by the time at which their file was changed last.
    """

    directory: Path
    files: dict[str, Verified]

    def __getitem__(self, name: str) -> bytes:
        """Raises KeyError, DamagedError; for small files."""
        content = (self.directory / name).read_bytes() if name in self.files else None
        if content is None or hashlib.sha256(content).hexdigest() != self.files[name].sha256:
            raise KeyError(name) if content is None else DamagedError(f"{self.directory / name} is damaged")
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def names_of(self, kind: str) -> list[str]:
        """The files that hold tensors of one kind; [] if there are none."""
        return sorted(n for n in self.files if n == file_name(kind) or n.startswith(f"{kind}.rank-"))

    @contextmanager
    def tensors(self, kind: str) -> Iterator[Tensors]:
        """Open the tensors of one kind (``model``, ``optimizer``, ``rng``), whichever files hold them.

        Raises ResourceError if a file has been changed since it was verified: what has been read may be anything.
        """
        names = self.names_of(kind)
        if not names:
            raise KeyError(file_name(kind))
        with Tensors([self.directory / name for name in names]) as tensors:
            yield tensors
        for name in names:
            if stamp(self.directory / name) != self.files[name][1:]:
                raise ResourceError(f"{self.directory / name} was changed while it was read: does another program write there?")


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def open_checkpoint(directory: Path) -> Checkpoint:
    """A checkpoint, after each of its files has been compared with its sha256; none is loaded.

    Raises DamagedError naming the first that differs, ResourceError if one cannot be read, but may be whole.
    """
    try:
        content = read_bytes(directory / "MANIFEST.json", MOST_OF_MANIFEST)
        manifest = parse_object(content)
        if sealed({key: value for key, value in manifest.items() if key != "sha256"}) != content:
            raise DamagedError(f"{directory / 'MANIFEST.json'} is damaged")
        if manifest["format"] > FORMAT:
            raise ModelError(f"{directory} has format {manifest['format']}, this version reads up to {FORMAT}: update")
        files = {}
        for name, expected in manifest["files"].items():
            if not PLAIN_NAME.fullmatch(name):
                raise DamagedError(f"{directory}: the manifest names {name!r}, which is not a plain file name")
            files[name] = Verified(expected["sha256"], *stamp(directory / name))
            if files[name].bytes != expected["bytes"] or sha256(directory / name) != expected["sha256"]:
                raise DamagedError(f"{directory / name} is damaged")
        if "state.json" not in files or files["state.json"].bytes > MOST_BYTES:
            raise DamagedError(f"{directory} is damaged (its manifest names no state.json, or one of over 64 MiB)")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        if isinstance(error, OSError) and error.errno in NO_DAMAGE:
            raise ResourceError(f"checkpoint {directory} cannot be read: {error.strerror}") from error
        raise DamagedError(f"{directory} is damaged ({type(error).__name__}: {error})") from error
    return Checkpoint(directory, files)


def sha256(path: Path) -> str:
    """The sha256 of a file, which is read piece by piece. Raises OSError, and ValueError for no regular file."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, with a warning for each that does not; None if there is none at all.

    Raises ModelError when there are checkpoints and none is whole, or a newer version wrote one: starting over, or from
    further back, must be the user's decision.
    """
    steps = steps_in(root)
    for step in reversed(steps):
        try:
            return open_checkpoint(root / f"step-{step:08d}")
        except DamagedError as error:
            note(f"warning: {error}; trying an older checkpoint")
    if steps:
        raise ModelError(f"no checkpoint in {root} is whole: give --overwrite to start from the beginning")
    return None


def steps_in(root: Path) -> list[int]:
    """Steps of the checkpoints there, oldest first; not verified."""
    if not root.is_dir():
        return []
    return sorted(int(match[1]) for path in root.iterdir() if (match := NAME.fullmatch(path.name)))


def best_step(state_json: bytes) -> int:
    """The step of the best model so far, as a checkpoint's state.json has it; the checkpoint's own if there is none."""
    document = parse_object(state_json)
    step: int = (document["progress"].get("best") or document)["step"]
    return step


# ------------------------------------------------------------------------------------------- letting old ones go


def discard(directory: Path) -> None:
    """Un-name first, then delete: a half-deleted checkpoint is never taken for one."""
    dead = directory.with_name(f".dead-{directory.name}")
    shutil.rmtree(dead, ignore_errors=True)
    os.rename(directory, dead)
    shutil.rmtree(dead, ignore_errors=True)


def set_aside(directory: Path) -> None:
    """Un-name what is damaged; it stays as ``.bad-step-NNNNNNNN`` for the user to look at. An earlier such one goes."""
    bad = directory.with_name(f".bad-{directory.name}")
    shutil.rmtree(bad, ignore_errors=True)
    os.rename(directory, bad)
    note(f"warning: {directory} is set aside as {bad.name}; delete it when you do not need it")


def clean(root: Path) -> None:
    """Delete what a killed process has left half-written or half-deleted. For the holder of the run's lock only.

    A checkpoint that was to be replaced by another of its step, which did not come, has its name again.
    """
    for path in root.glob(".replaced-step-*"):
        name = path.name.removeprefix(".replaced-")
        if NAME.fullmatch(name) and not (root / name).exists():
            os.rename(path, root / name)
    for pattern in (".tmp-step-*", ".dead-step-*", ".replaced-step-*"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def set_aside_after(root: Path, step: int) -> None:
    """Set aside the checkpoints later than ``step``, which is the newest that is whole."""
    for later in steps_in(root):
        if later > step:
            set_aside(root / f"step-{later:08d}")


def discard_all(root: Path) -> None:
    """Delete all checkpoints of a run that is to start again, and what is left of others."""
    clean(root)
    for step in reversed(steps_in(root)):
        discard(root / f"step-{step:08d}")
    for path in root.glob(".bad-step-*"):
        shutil.rmtree(path, ignore_errors=True)


def num_newest(keep: int | str) -> int:
    """How many of the newest are kept beside the best one: at least two; with the word ``best`` one."""
    return max(keep, MIN_KEPT) if isinstance(keep, int) else 1


def rotate(root: Path, keep: int | str, verified: dict[int, int]) -> None:
    """Delete all but the newest ``num_newest(keep)`` whole checkpoints and the best ones that they refer to.

    ``verified``: the steps that this process has written or read, each with the best step that it refers to. Another is read
    before it is counted, and joins them or is set aside. What cannot be read or deleted is left, with a warning: that is no
    reason to end a run.
    """
    try:
        steps = steps_in(root)
        kept: set[int] = set()
        counted = 0
        for step in reversed(steps):
            if counted < num_newest(keep) < len(steps) and is_verified(root / f"step-{step:08d}", step, verified):
                kept |= {step, verified[step]}
                counted += 1
        for step in steps:
            if counted and step not in kept:
                discard(root / f"step-{step:08d}")
    except (OSError, ResourceError) as error:
        note(f"warning: old checkpoints in {root} could not be deleted ({getattr(error, 'strerror', None) or error})")


def is_verified(directory: Path, step: int, verified: dict[int, int]) -> bool:
    """Is it whole? One that is not known yet is opened, and set aside if it is damaged. Raises ResourceError, OSError."""
    if step not in verified:
        try:
            verified[step] = best_step(open_checkpoint(directory)["state.json"])
        except DamagedError:
            set_aside(directory)
            return False
    return True
