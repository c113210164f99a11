"""Pictures with captions: read whole once, to refuse what is broken and to know them again; decoded when a batch wants them.

A picture is a path, an http address, bytes as ``datasets`` keeps them, or a PIL image. Whatever its name says, its content
decides what Pillow does with it, and for some formats (EPS) Pillow starts another program: only those of FORMATS are opened.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from engine.errors import DataError
from engine.settings.fields import user_path
from engine.task import Row

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DOWNLOAD_SECONDS, MAX_BYTES = 20, 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those that Pillow decodes in its own process


def read_bytes(source: Any, folder: Path, where: str) -> bytes:
    """The file's content. ``folder``: what relative paths start from. Raises DataError."""
    if isinstance(source, dict) and source.get("bytes"):
        return bytes(source["bytes"])
    name = source.get("path") if isinstance(source, dict) else source
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where}: a picture is needed, found {source!r}")
    try:
        if name.startswith(("http://", "https://")):
            request = urllib.request.Request(name, headers={"User-Agent": "plainloop"})
            with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as stream:
                content: bytes = stream.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise DataError(f"{where}: {name} is larger than {MAX_BYTES >> 20} MiB")
            return content
        return (folder / user_path(name)).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{where}: there is no picture {folder / name}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def opened(content: bytes) -> Picture:
    """The one place where Pillow is given a file; what is read so far is its head. Raises what Pillow raises."""
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:  # Pillow's own message has an address in memory for a name
        raise UnidentifiedImageError(f"its content is none of {', '.join(FORMATS)}") from error


def decode(content: bytes, where: str) -> Picture:
    """The picture the right way up, in RGB. Raises DataError."""
    try:
        with opened(content) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is not a picture that can be read: {error}") from error


def open_picture(source: Any, where: str) -> Picture:
    """A picture from anywhere. Raises DataError."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    return decode(read_bytes(source, Path(), where), str(source) if isinstance(source, str) else where)


class Pictures(torch.utils.data.Dataset[Row]):
    """Rows ``{"tokens": [T + 1], "pixel_values": [3, H, W] float32}``; the length is that of the caption.

    ``sources``: what each row's picture is read from; ``tokens``: its caption, from the first token to the last.
    """

    def __init__(self, sources: Sequence[Any], tokens: Sequence[np.ndarray], processor: Any, folder: Path, name: str):
        self.sources, self.tokens, self.processor, self.folder, self.name = sources, tokens, processor, folder, name
        self.digests = [self._check(row) for row in tqdm(range(len(tokens)), desc=f"reading the pictures of the {name} data",
                                                         disable=None if len(tokens) > 2000 else True)]  # fmt: skip

    def _read(self, row: int) -> tuple[bytes, str]:
        where = f"{self.name} data, row {row + 1}"
        return read_bytes(self.sources[row], self.folder, where), where

    def _check(self, row: int) -> bytes:
        """A hash of the file. Raises DataError for what is no picture; a file that is cut off is seen when it is decoded."""
        content, where = self._read(row)
        try:
            with opened(content) as picture:
                picture.verify()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: not a picture that can be read: {error}") from error
        return hashlib.sha256(content).digest()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> Row:
        content, where = self._read(row)
        return {"tokens": self.tokens[row], "pixel_values": pixels(self.processor, decode(content, where))}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens to predict for each row: [N]."""
        return np.asarray([len(row) - 1 for row in self.tokens])

    def fingerprint(self) -> str:
        """Hash of all pictures and captions, and of how pictures are prepared."""
        digest = hashlib.sha256(self.processor.to_json_string().encode())
        for picture, caption in zip(self.digests, self.tokens, strict=True):
            digest.update(picture + len(caption).to_bytes(4, "little") + caption.tobytes())
        return digest.hexdigest()


def pixels(processor: Any, picture: Picture) -> np.ndarray:
    """[3, H, W] float32, resized and normalised as the model wants it."""
    values: np.ndarray = processor(picture, return_tensors="np")["pixel_values"][0]
    return values.astype(np.float32)
