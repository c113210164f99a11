"""The command ``caption``: describe pictures with a finished model, or with one of the Hub as it is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.commands.output import check_output, is_flat
from engine.commands.picture import PICTURES, check_matplotlib, save_figure
from engine.commands.predict import folder_of
from engine.console import printable, say, shown
from engine.errors import UsageError
from engine.finished import Find, open_model
from tasks.captioning.pictures import open_picture
from tasks.flags import CaptionConfig
from tasks.inputs import texts_given, write_found

MOST_DRAWN, IN_A_ROW = 16, 4


def caption(config: CaptionConfig, pictures: Sequence[str], find: Find) -> None:
    """The command: a caption for each picture, a file or an http address. Prints, or writes ``--output`` and ``--picture``."""
    example = "caption photo.jpg"
    pictures, rows = texts_given(config, pictures, model=config.model, what="a picture", example=example, column="file_name")
    if config.picture and len(pictures) > MOST_DRAWN:
        raise UsageError(f"--picture shows at most {MOST_DRAWN} pictures, found {len(pictures)}")
    folder = None if config.input is None else folder_of(config.input)
    if config.picture:
        read = [str(Path(folder or "") / str(picture)) for picture in pictures]
        check_output("--picture", config.picture, PICTURES, inputs=[*read, config.output], model=config.model)
        check_matplotlib("--picture")
    urls = config.allow_urls or config.input is None  # an address that somebody has typed is asked for
    changes = {"num_beams": config.num_beams, "max_new_tokens": config.max_new_tokens, "allow_urls": urls,
               "image_folder": config.image_folder}  # fmt: skip
    task: Any
    task, model, layout = open_model(
        config.model, find, device=config.device, task=config.task, base="captioning", changes=changes,
        folder=folder,
    )  # fmt: skip
    captions = list(task.predict(model, pictures, layout))
    if config.picture:
        access = task.access_of_inputs()
        opened = [open_picture(picture, f"picture {i}", access) for i, picture in enumerate(pictures, start=1)]
        draw(opened, [task.describe(found) for found in captions], Path(config.picture))
    if config.output:
        flat = is_flat(Path(config.output))
        write_found(config, rows, [task.columns_of(found, flat) for found in captions], "captions")
    else:
        for picture, found in zip(pictures, captions, strict=True):
            say(f"{task.describe(found)}\t{shown(picture)}")
    if config.picture:
        say(f"picture written to {config.picture}")


def draw(pictures: Sequence[Any], captions: Sequence[str], path: Path) -> None:
    """The pictures in rows, each with its caption as title. Raises ResourceError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(IN_A_ROW, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 4.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, pictures, captions, strict=False):  # the last row may be short
        axis.imshow(image)
        axis.set_title("\n".join(textwrap.wrap(printable(text), 40)), fontsize=11, parse_math=False)
    save_figure("--picture", path, figure)
