"""Rows P1 and on: folders of pictures with labels that lack something, or hold what would be lost in silence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bench.bad_input.case import Attempts, Place, call, row
from bench.bad_input.model_rows import hub_away

NUMBER = iter(range(1, 1000))
CLASSES = ("ant", "bee")


def draw(path: Path, value: int, name: str = "PNG") -> None:
    """A grey picture."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path, name)


def pictures(at: Place) -> Path:
    """A folder with two classes of four pictures each."""
    for i in range(4):
        for label, name in enumerate(CLASSES):
            draw(at.folder / f"data/{name}/{i}.png", 100 * label + i)
    return at.folder / "data"


def train(at: Place, *flags: str) -> list[str]:
    data = [] if "--train-file" in flags else ["--data", str(at.folder / "data")]
    return ["--task", "image-classification", *data, "--device", "cpu", "--epochs", "1", "--output-dir", str(at.out), *flags]


def refused(
    what: str, words: str, change: Callable[[Path], object], *way: str, code: int = 3, flags: tuple[str, ...] = ()
) -> None:
    """The folder as ``change`` leaves it is refused; ``way``: the flags that the line names, which work."""

    @row(f"P{next(NUMBER)}", what, code, words)
    def _(at: Place) -> Attempts:
        change(pictures(at))
        with hub_away():  # a small model is made
            yield train(at, *flags)
            if way:
                done = call([*train(at, *flags, *way), "--overwrite"])
                assert done.code == 0 and not done.raised, f"the way in does not work: {done.err}"


def held_out(data: Path) -> None:
    """Two splits, of which the second has a class of its own."""
    for name in CLASSES:
        shutil.move(data / name, data / "train" / name)
    draw(data / "test/ant/0.png", 7)
    draw(data / "test/wasp/0.png", 8)


def loose(data: Path) -> None:
    """No folder, but a picture."""
    for name in CLASSES:
        shutil.rmtree(data / name)
    draw(data / "5.png", 5)


def numbered(data: Path) -> None:
    """A file that says what the pictures are, with one that is not there."""
    lines = [f"{name}/{i}.png,{name}\n" for name in CLASSES for i in range(5)]
    (data / "metadata.csv").write_text("file_name,label\n" + "".join(lines))


refused(
    "a picture that is none",
    "not a picture that can be read: its content is none of PNG",
    lambda d: (d / "bee/2.png").write_bytes(b"bee"),
)
refused(
    "a picture that is cut off", "(bee/2.png)", lambda d: (d / "bee/2.png").write_bytes((d / "bee/1.png").read_bytes()[:50])
)
refused("a class without pictures", "wasp is the folder of a class and holds no picture", lambda d: (d / "wasp").mkdir())
refused("a picture outside the classes", "5.png lies in no folder of a class", lambda d: draw(d / "5.png", 5))
refused("pictures and no classes", "each class needs a folder, whose name is the label", loose)
refused("another file among the pictures", "notes.txt is no picture by its name", lambda d: (d / "bee/notes.txt").touch())
refused("a folder in the folder of a class", "is a folder within that of a class", lambda d: draw(d / "bee/small/1.png", 5))
refused("splits without classes", "need folders with pictures in them, one for each class",
        lambda d: [(d / old).rename(d / new) for old, new in zip(CLASSES, ("train", "test"), strict=True)])  # fmt: skip
refused("a class in the evaluation pictures alone", "label 'wasp' is none of the 2 labels (ant, bee)", held_out,
        "--label-names", "ant,bee,wasp")  # fmt: skip
refused("one class of pictures", "at least two classes are needed", lambda d: shutil.rmtree(d / "bee"))
refused("a picture named in metadata.csv that is not there", "there is no picture ant/4.png", numbered)
refused("a column of labels that metadata.csv has not", "has no column 'kind'", numbered, flags=("--label-column", "kind"))
refused("a link to a file elsewhere", "does not lie in", lambda d: (d / "bee/9.png").symlink_to("/etc/hostname"))


@row(
    f"P{next(NUMBER)}",
    "grey, coloured and transparent pictures in six formats",
    0,
    "labels of the train data: ant (16), bee (4)",
)
def _(at: Place) -> Attempts:
    from PIL import Image

    data = pictures(at)
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        draw(data / f"ant/grey-{name.lower()}.{name.lower()}", 9, name)
        Image.new("RGB", (5, 9), (1, 2, 3)).save(data / f"ant/colours-{name.lower()}.{name.lower()}", name)
    with hub_away():
        yield train(at)
