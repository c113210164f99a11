"""What tasks on pictures have in common: where pictures may lie, the model's image processor, pictures in its numbers.

Next: captioning/pictures.py, which opens them; image_classification/task.py, which trains on them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor, nn
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from engine.checked import is_a
from engine.data.form import Columns
from engine.data.tables import origin_of, place_of, plain_row, row_name
from engine.errors import DataError, ModelError
from engine.settings.fields import user_path
from tasks.captioning.pictures import Access, Pictures, open_picture, pixels
from tasks.text import TextOptions, TextTask

if TYPE_CHECKING:
    from datasets import Dataset

PREDICT_ROWS = 16
MOST_SIDE = 4096  # points; models take 200 to 1,500
SQUARE = base64.b64decode(  # 16 x 16 grey points, a PNG: an example for who asks a server
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mNsYEAFTAwjWgAAmZAAoFDIQrAAAAAASUVORK5CYII="
)


class ImageOptions(TextOptions, Protocol):
    """What the options of a task on pictures must have."""

    @property
    def image_column(self) -> str | None: ...
    @property
    def image_folder(self) -> str | None: ...
    @property
    def allow_urls(self) -> bool: ...


I = TypeVar("I", bound=ImageOptions)  # noqa: E741 - the task's own options


class ImageTask(TextTask[I]):
    """A task on pictures, with text or without."""

    level = None  # padded only

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def image_column(self) -> str:
        """As asked, else ``file_name`` in files, and ``image`` in data sets."""
        source, config = self.source, self.source.config
        if source.given is not None:
            in_files = any("file_name" in table.column_names for table in source.given.values())
        else:
            named = config.train_file or (config.data not in ("auto", "hub", "sample") and user_path(config.data).exists())
            in_files = source.files is not None or bool(named)
        return self.options.image_column or ("file_name" if in_files else "image")

    def pictures(
        self, table: Dataset, split: str, name: str, targets: Sequence[np.ndarray] | np.ndarray, lengths: np.ndarray,
        rows: Sequence[int] | None = None,
    ) -> Pictures:  # fmt: skip
        """The pictures of a table; what their model is to say of each stands in ``targets``, as ``name``.

        ``rows``: of the table, of each; None: all, in order. ``lengths`` [N]: what each counts for.
        """
        column = table[self.image_column]
        accesses = {file: self.access(file) for file in origin_of(table).files or [""]}

        def row_of(number: int) -> int:
            return number if rows is None else rows[number]

        return Pictures(
            lambda i: column[row_of(i)], name, targets, lengths, self.processor,
            lambda i: accesses[place_of(table, row_of(i))[0]], lambda i: f"{split} data, {row_name(table, row_of(i))}",
        )  # fmt: skip

    def access(self, file: str) -> Access:
        """What the names in a file of the data may stand for; "": in data that are in none.

        Of those that a program of the user's gives in Python, any file.
        """
        if file:
            own = user_path(file) if user_path(file).is_dir() else user_path(file).parent
            folders = [own, *filter(Path.is_dir, [user_path(self.source.config.data)])]
        elif self.source.given is None:  # the Hub's library has put them there
            folders = [Path(HF_DATASETS_CACHE), Path(HF_HUB_CACHE)]
        else:
            return Access(None, self.options.allow_urls)
        return self.within(folders)

    def within(self, folders: Sequence[Path]) -> Access:
        """These folders, and that of the options."""
        more = self.options.image_folder
        return Access([*folders, *([user_path(more)] if more else [])], self.options.allow_urls)

    # --------------------------------------------------------------------------------------------------------- model

    @cached_property
    def processor(self) -> Any:
        """What makes numbers of a picture: pillow's, so that they are the same on every machine."""

        def load(path: str, **arguments: Any) -> Any:  # in older versions it has no from_pretrained without torchvision
            return AutoImageProcessor.from_pretrained(path, **arguments)

        found = self.source.load(load, self.path, backend="pil")
        for sizes in (getattr(found, name, None) or {} for name in ("size", "crop_size")):
            if large := [side for side in dict(sizes).values() if is_a(side, float) and side > MOST_SIDE]:
                raise ModelError(
                    f"model {self.path}: its pictures would have {large[0]} points a side; {MOST_SIDE} are the most"
                )
        return found

    def save_processor(self, directory: Path) -> None:
        self.processor.save_pretrained(directory)

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        name = next(iter(rows)) if len(rows) == 1 else self.options.image_column or "file_name"
        if name not in rows:
            raise DataError(f"the input has no column {name!r} of picture files (it has: {', '.join(rows)})")
        return list(rows[name])

    longest_input = None  # of text

    def served(self) -> list[dict[str, Any]]:
        """Bytes, and never a name: no file of this machine is opened for a client."""
        return [{self.options.image_column or "image": SQUARE}]

    def access_of_inputs(self) -> Access:
        """What the names of given pictures may stand for: those of a file lie in its folder, those typed anywhere."""
        folder = self.source.folder
        return Access(None, self.options.allow_urls) if folder is None else self.within([folder])

    def opened(self, inputs: Iterable[Any], device: torch.device) -> Iterator[Tensor]:
        """The pictures that are given to ``predict``, some at a time: [B, 3, H, W]. Raises DataError."""
        sources, access = list(inputs), self.access_of_inputs()
        for start in range(0, len(sources), PREDICT_ROWS):
            chunk = sources[start : start + PREDICT_ROWS]
            names = [plain_row(start + i, "picture") for i in range(len(chunk))]
            found = [  # one at a time is decoded: a file of a few kB may hold 64 Mi pixels
                pixels(self.processor, open_picture(source, name, access)) for source, name in zip(chunk, names, strict=True)
            ]
            yield torch.from_numpy(np.stack(found)).to(device)


def without_batch_norm(model: nn.Module, path: str) -> nn.Module:
    """The model. Raises ModelError for one whose training depends on which pictures share a micro-batch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"model {path} ({type(model).__name__}) has batch normalisation ({name}): what it learns of a picture "
                "depends on those beside it, so accumulation and several devices would change it. Take ViT, DeiT, BEiT, "
                "Swin, DINOv2 or ConvNeXt"
            )
    return model
