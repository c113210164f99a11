"""Models of sentences side by side: dimensions, the first numbers, which sentences each finds near, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.commands.output import check_output
from engine.commands.picture import PICTURES, check_matplotlib, save_figure
from engine.console import say, say_lines, shown
from engine.errors import UsageError
from engine.finished import Find, open_model
from tasks.embeddings.task import Embeddings
from tasks.flags import CompareConfig

FIRST, REPEATS = 10, 5


@dataclass(frozen=True)
class Embedded:
    """What one model makes of the sentences. ``vectors``: [N, H] of length 1; ``seconds`` for each sentence."""

    name: str
    vectors: Tensor
    seconds: float

    @property
    def similarities(self) -> Tensor:
        """[N, N] cosines."""
        return self.vectors @ self.vectors.T


def compare_models(config: CompareConfig, texts: Sequence[str], find: Find) -> None:
    """The command: prints the comparison, and draws ``--picture``."""
    if texts:
        raise UsageError(f"found {texts[0]!r}: sentences come after --sentences, models after --models")
    check_output("--picture", config.picture, PICTURES)
    if config.picture:
        check_matplotlib("--picture")
    found = [embedded(name, config, find) for name in config.models]
    width = max(*(len(model.name) for model in found), 10)
    for model in found:
        say(f"{model.name:<{width}}  {model.vectors.shape[1]:>4} dimensions  {1000 * model.seconds:.2f} ms a sentence")
    for row, sentence in enumerate(config.sentences, start=1):
        say_lines(f"\n{row}. {shown(sentence)}")
        for model in found:
            say(f"{model.name:<{width}}  first {FIRST}: {' '.join(f'{x:7.4f}' for x in model.vectors[row - 1, :FIRST])}")
    for model in found:
        say_lines(f"\n{model.name}: similarities (cosines)")
        say_lines(matrix(model.similarities))
    if config.picture:
        draw(found, config.sentences, Path(config.picture))
        say_lines(f"\npicture written to {config.picture}")


def embedded(name: str, config: CompareConfig, find: Find) -> Embedded:
    """One model's vectors, and the least of some times: the others are those of a busy machine."""
    task, model, layout = open_model(name, find, device=config.device, task=config.task, base="embeddings")
    assert isinstance(task, Embeddings)
    vectors = task.vectors(model, config.sentences, layout)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        task.vectors(model, config.sentences, layout)
        times.append(time.perf_counter() - began)
    return Embedded(name, vectors, min(times) / len(config.sentences))


def matrix(values: Tensor) -> str:
    """A square of cosines with numbered rows and columns."""
    numbers = range(1, len(values) + 1)
    lines = ["    " + " ".join(f"{i:>5}" for i in numbers)]
    return "\n".join(lines + [f"{i:>3} " + " ".join(f"{x:5.2f}" for x in row) for i, row in zip(numbers, values, strict=True)])


def draw(found: Sequence[Embedded], sentences: Sequence[str], path: Path) -> None:
    """A column for each model: its similarities as a square, the same colours for the same cosines, and below them the first
    numbers of each vector. Raises ResourceError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    number = len(sentences)
    size = max(2.6, 0.62 * number)
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.2 + (size + 1.9) * len(found), 2 * size + 2.4), squeeze=False, layout="constrained"
    )
    labels = [f"{i}. {shown(sentence, 34)}" for i, sentence in enumerate(sentences, start=1)]
    largest = max(float(model.vectors[:, :FIRST].abs().max()) for model in found)
    squares = []
    for model, (above, below) in zip(found, axes.T, strict=True):
        title = f"{shown(model.name, 40)}\n{model.vectors.shape[1]} dimensions, {1000 * model.seconds:.1f} ms"
        above.set_title(title, fontsize=9, parse_math=False)
        squares.append(grid(above, model.similarities, "Blues", 0, 1, "{:.2f}"))
        above.set_xticks(range(number), [str(i) for i in range(1, number + 1)])
        numbers = grid(below, model.vectors[:, :FIRST], "RdBu", -largest, largest, "{:.2f}", fontsize=6)
        below.set_title(f"the first {FIRST} numbers of each vector", fontsize=9)
        below.set_xticks(range(min(FIRST, model.vectors.shape[1])))
        for axis in (above, below):
            names = labels if model is found[0] else [str(i) for i in range(1, number + 1)]
            axis.set_yticks(range(number), names, fontsize=8, parse_math=False)
            axis.tick_params(length=0)
    figure.colorbar(squares[0], ax=axes[0].tolist(), label="cosine", shrink=0.8)
    figure.colorbar(numbers, ax=axes[1].tolist(), label="number", shrink=0.8)
    save_figure("--picture", path, figure)


def grid(axis: Any, values: Tensor, colours: str, least: float, most: float, form: str, fontsize: int = 8) -> Any:
    """A matrix as coloured cells, each with its number; the text is white on what is dark."""
    image = axis.imshow(values, cmap=colours, vmin=least, vmax=most, aspect="auto")
    for row, cells in enumerate(values.tolist()):
        for column, value in enumerate(cells):
            red, green, blue, _ = image.cmap(image.norm(value))
            colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
            axis.text(column, row, form.format(value), ha="center", va="center", fontsize=fontsize, color=colour)
    return image
