"""Pictures with captions: decoded once, to refuse what is broken and to know them again; and again when a batch wants them.

A picture is a path, an address, bytes as ``datasets`` keeps them, or a PIL image. Whoever writes the data names the files, so
these have to be regular and lie in the folder of the data, and addresses are asked for only where the user says so. Whatever
its name says, a file's content decides what Pillow does with it, and for some formats (EPS) Pillow starts another program:
only those of FORMATS are opened. Bytes and pixels are counted before anything is decoded.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.checked import NO_WAIT
from engine.console import progress_bar
from engine.data.tables import RowName
from engine.errors import DataError
from engine.settings.fields import user_path
from engine.task import Row
from tasks.captioning.download import download, is_address

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_BYTES, MAX_PIXELS = 64 * 2**20, 64 * 2**20  # of one picture; in RGB that many pixels take 192 MiB
MOST_16 = 2**16 - 1
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those that Pillow decodes in its own process


@dataclass(frozen=True)
class Access:
    """What the names in the data may stand for.

    ``folders``: that of the data, which relative names start from, and others that pictures may lie in; None: any, for names
    that the user, and not the data, has given. ``addresses``: may they be asked for?
    """

    folders: Sequence[Path] | None = None
    addresses: bool = False


ANYWHERE = Access()


def read_bytes(source: Any, access: Access, where: str) -> bytes:
    """The file's content. Raises DataError."""
    if isinstance(source, dict) and source.get("bytes"):
        return bytes(source["bytes"])
    name = source.get("path") if isinstance(source, dict) else source
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: a picture is needed, found {source!r}")
    if is_address(name):
        if not access.addresses:
            raise DataError(f"{where}: {name} is an address, and none is asked for unless you say --allow-urls")
        return download(name, MAX_BYTES, where)
    try:
        return read_file(name, access.folders, where)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{where}: there is no picture {name}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_file(name: str, folders: Sequence[Path] | None, where: str) -> bytes:
    """Of a regular file within the folders, links followed. Raises OSError, DataError."""
    path = (folders[0] if folders else Path()) / user_path(name)
    real = path.resolve(strict=True)
    if folders is not None and not any(real.is_relative_to(folder.resolve()) for folder in folders):
        raise DataError(
            f"{where}: {name} does not lie in {folders[0].resolve()}, where the data are: put it there, or name the folder of "
            "the pictures with --image-folder"
        )
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device may never end
        raise DataError(f"{where}: {name} is not a regular file")
    with open(os.open(real, os.O_RDONLY | NO_WAIT), "rb") as stream:
        content = b"" if status.st_size > MAX_BYTES else stream.read(MAX_BYTES + 1)
    if max(status.st_size, len(content)) > MAX_BYTES:
        raise DataError(f"{where}: {name} is larger than {MAX_BYTES >> 20} MiB")
    return content


def opened(content: bytes) -> Picture:
    """The one place where Pillow is given a file; what is read so far is its head. Raises what Pillow raises, ValueError."""
    try:
        picture = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:  # Pillow's own message has an address in memory for a name
        raise UnidentifiedImageError(f"its content is none of {', '.join(FORMATS)}") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"it has {picture.width} x {picture.height} pixels, and at most {MAX_PIXELS >> 20} Mi are decoded")
    return picture


def in_rgb(picture: Picture) -> Picture:
    """With 8 bits for each colour. Of 16 bits that is v / 257; Pillow's own conversion would cut off at 255.

    Raises ValueError for numbers whose range nothing says: floats, and integers of more than 16 bits.
    """
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= MOST_16:
            return Image.fromarray(np.round(values / (MOST_16 / 255)).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"its pixels are {'floats' if picture.mode == 'F' else 'integers of more than 16 bits'}, and nothing "
                         "says which is white: save it with 8 or 16 bits")  # fmt: skip
    return picture.convert("RGB")


def decode(content: bytes, where: str) -> Picture:
    """The picture the right way up, in RGB. Raises DataError."""
    try:
        with opened(content) as picture:
            return in_rgb(ImageOps.exif_transpose(picture))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is not a picture that can be read: {error}") from error


def open_picture(source: Any, where: str, access: Access = ANYWHERE) -> Picture:
    """A picture from anywhere that ``access`` lets it come from. Raises DataError."""
    if isinstance(source, Image.Image):
        try:
            return in_rgb(source)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
    return decode(read_bytes(source, access, where), str(source) if isinstance(source, str) else where)


class Pictures(torch.utils.data.Dataset[Row]):
    """Rows ``{NAME: target, "pixel_values": [3, H, W] float32}``.

    ``source``: what a row's picture is read from; ``targets``: what ``name`` is in each row, an array; ``lengths`` [N]: what
    each counts for; ``access``: what a row's name may stand for; ``row_name``: what errors call a row. What lies at an address
    is fetched once, and kept in a file while this object lives.
    """

    def __init__(self, source: Callable[[int], Any], name: str, targets: Sequence[np.ndarray] | np.ndarray, lengths: np.ndarray,
                 processor: Any, access: Callable[[int], Access], row_name: RowName):  # fmt: skip
        self.source, self.name, self.targets, self.lengths = source, name, targets, lengths
        self.processor, self.access, self.row_name = processor, access, row_name
        self.fetched: dict[str, Path] = {}
        self.downloads = tempfile.TemporaryDirectory(prefix="plainloop-") if len(targets) and access(0).addresses else None
        rows = progress_bar(range(len(targets)), desc="reading the pictures", hidden=len(targets) <= 2000)
        self.digests = [self._check(row) for row in rows]

    def _read(self, row: int) -> tuple[bytes, str]:
        where, source = self.row_name(row), self.source(row)
        if isinstance(source, str) and source in self.fetched:
            return self.fetched[source].read_bytes(), where
        content = read_bytes(source, self.access(row), where)
        if self.downloads and isinstance(source, str) and is_address(source):
            self.fetched[source] = Path(self.downloads.name) / str(row)
            self.fetched[source].write_bytes(content)
        return content, where

    def _check(self, row: int) -> bytes:
        """A hash of the file. Raises DataError for what is no picture, or is cut off: better now than in an evaluation."""
        content, where = self._read(row)
        try:
            with opened(content) as picture:
                in_rgb(picture)  # which decodes it
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            name = f" ({source})" if isinstance(source := self.source(row), str) else ""
            raise DataError(f"{where}: not a picture that can be read: {error}{name}") from error
        return hashlib.sha256(content).digest()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Row:
        content, where = self._read(row)
        return {self.name: self.targets[row], "pixel_values": pixels(self.processor, decode(content, where))}

    def fingerprint(self) -> str:
        """Hash of all pictures and targets, and of how pictures are prepared."""
        digest = hashlib.sha256(self.processor.to_json_string().encode())
        for picture, target in zip(self.digests, map(np.atleast_1d, self.targets), strict=True):
            digest.update(picture + len(target).to_bytes(4, "little") + target.tobytes())
        return digest.hexdigest()


def pixels(processor: Any, picture: Picture) -> np.ndarray:
    """[3, H, W] float32, resized and normalised as the model wants it."""
    values: np.ndarray = processor(picture, return_tensors="np")["pixel_values"][0]
    return values.astype(np.float32)
