"""Models of sentences side by side: dimensions, the first numbers, which sentences each finds near, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engine.commands.output import check_output, writing
from engine.console import say, say_lines, shown
from engine.errors import UsageError
from engine.finished import Find, open_model
from tasks.embeddings.task import Embeddings
from tasks.flags import CompareConfig

FIRST, REPEATS = 10, 5
PICTURES = (".png", ".svg", ".pdf")


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
        check_matplotlib()
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


def check_matplotlib() -> None:
    """Raises UsageError without it, before a model is loaded."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--picture needs matplotlib: pip install -c constraints.txt '.[bench]'") from error


def draw(found: Sequence[Embedded], sentences: Sequence[str], path: Path) -> None:
    """One square for each model, the same colours for the same cosines. Raises ResourceError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    number = len(sentences)
    size = max(2.6, 0.62 * number)
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.2 + (size + 0.7) * len(found), size + 1.4), squeeze=False, layout="constrained"
    )
    labels = [f"{i}. {shown(sentence, 34)}" for i, sentence in enumerate(sentences, start=1)]
    for model, axis in zip(found, axes[0], strict=True):
        image = axis.imshow(model.similarities, cmap="Blues", vmin=0, vmax=1)
        for row, values in enumerate(model.similarities.tolist()):
            for column, value in enumerate(values):
                colour = "white" if value > 0.55 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axis.set_title(
            f"{shown(model.name, 40)}\n{model.vectors.shape[1]} dimensions, {1000 * model.seconds:.1f} ms", fontsize=9
        )
        axis.set_xticks(range(number), [str(i) for i in range(1, number + 1)])
        axis.set_yticks(range(number), labels if axis is axes[0, 0] else [str(i) for i in range(1, number + 1)], fontsize=8)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes[0].tolist(), label="cosine", shrink=0.8)
    try:
        with writing("--picture", path, binary=True) as stream:
            figure.savefig(stream, dpi=160, format=path.suffix.lower()[1:])
    finally:
        plt.close(figure)
