"""The tutorials' runs, one after the other, as a newcomer without the Hub types them: what comes out, how long it takes.

    python -m bench tutorials                     all that bench/results/tutorials-cpu.json does not hold, about 30 minutes
    python -m bench tutorials captioning sft      those, again
    python -m bench tutorials --table             nothing is run

Models land in ``runs/`` of the folder it is called from. Each has at least 200 held-out rows, and the best answer that is
always the same beside the figure: above it by three standard errors, or the exit code is 1.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.flags import make_parser, one_of
from bench.machine import RESULTS, ROOT, keep

SHORT = "--epochs 1 --max-length 128 --learning-rate 1e-4"


@dataclass(frozen=True)
class Tutorial:
    """``train`` and ``use`` are what stands after ``python run.py``."""

    train: str
    use: str
    figure: str


TUTORIALS = {
    "yelp": Tutorial(f"--task yelp --max-train-examples 1000 --max-eval-examples 500 {SHORT}",
                     'predict --model runs/yelp "Great tacos, slow service."', "accuracy"),
    "imdb": Tutorial(f"--task imdb --max-train-examples 1000 --max-eval-examples 1000 {SHORT}",
                     'predict --model runs/imdb "I want these two hours back."', "accuracy"),
    "mlm": Tutorial("--task mlm --max-train-examples 1400 --max-eval-examples 300 --epochs 1 --learning-rate 4e-4",
                    'fill --model runs/mlm "This is a [MASK] movie!"', "accuracy"),
    "clm": Tutorial("--task clm --learning-rate 1e-3",
                    'generate --model runs/clm "The food was" --max-new-tokens 30', "accuracy"),
    "sft": Tutorial("--task sft --learning-rate 1e-3",
                    'generate --model runs/sft --chat "Which word comes last: red, moon, cat?"', "accuracy"),
    "reward": Tutorial("--task reward --model runs/sft --epochs 1 --learning-rate 5e-4 --warmup-ratio 0.1",
                       "evaluate --model runs/reward --errors wrong.csv", "accuracy"),
    "dpo": Tutorial("--task dpo --model runs/sft --max-train-examples 2000 --epochs 1 --learning-rate 1e-4 --warmup-ratio 0.1",
                    'generate --model runs/dpo --chat "Which word comes last: red, moon, cat?"', "accuracy"),
    "ner": Tutorial("--task ner --epochs 2 --learning-rate 2e-4",
                    'predict --model runs/ner "Maria Dalton flew from Norbury to Kelsey."', "f1"),
    "qa": Tutorial("--task qa --epochs 3 --learning-rate 3e-4",
                   'predict --model runs/qa "Where does Ada live?" "Olga moved to Norbury. Ada lives in Kelsey."',
                   "exact_match"),
    "reranker": Tutorial("--task reranker --epochs 1 --learning-rate 1e-4 --warmup-ratio 0.1",
                         'predict --model runs/reranker "Where does Ada Kelton live?" "Ada Kelton keeps a goat." '
                         '"Olga Ashley lives in Norbury." "Ada Kelton moved to Kelsey last spring."', "mrr@10"),
    "seq2seq": Tutorial("--task seq2seq --batch-size 32 --batching bucketed --epochs 3 --learning-rate 1e-3 --warmup-ratio 0.1",
                        'generate --model runs/seq2seq "Ravi has hidden the old key in the garden."', "exact_match"),
    "captioning": Tutorial("--task captioning --batch-size 32 --epochs 14 --learning-rate 1e-3 --warmup-ratio 0.1",
                           "caption --model runs/captioning picture.png", "exact_match"),
    "image-classification": Tutorial(
        "--task image-classification --batch-size 32 --epochs 10 --learning-rate 1e-3 --warmup-ratio 0.1",
        "predict --model runs/image-classification digit.png", "accuracy"),
    "embeddings": Tutorial("--task embeddings --max-train-examples 2000 --max-eval-examples 1000 --batch-size 32 --epochs 1",
                           'search --model runs/embeddings --corpus reviews.txt --top-k 2 "a film about trains"',
                           "recall@10"),
}  # fmt: skip


def run(arguments: str) -> tuple[str, float]:
    """What ``python run.py ...`` prints on stdout, and its seconds. Raises SystemExit if it fails."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "run.py"), *shlex.split(arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"python run.py {arguments}: exit code {ended.returncode}")
    return ended.stdout, time.perf_counter() - began


def inputs() -> None:
    """A picture of a combination that no training picture shows, a digit, and a few reviews to search in."""
    from tasks.classification.imdb import packaged_imdb
    from tasks.samples.digits import splits
    from tasks.samples.shapes import drawn

    Path("picture.png").write_bytes(drawn("eval")[0][0])
    Path("digit.png").write_bytes(splits()["eval"][0][0])
    Path("reviews.txt").write_text(
        "\n".join(" ".join(text.split()) for text in list(packaged_imdb())[:500]) + "\n", encoding="utf-8"
    )


def trivial(name: str) -> float:
    """The figure of the best answer that is always the same, on the held-out rows of ``runs/NAME``."""
    from collections import Counter

    import torch

    from engine.config import TrainConfig
    from engine.data.collate import Layout
    from engine.distributed.world import World
    from engine.finished import open_model
    from engine.loader import eval_loader
    from tasks import find
    from tasks.embeddings.retrieval import TOP
    from tasks.samples import passages, passive
    from tasks.samples.shapes import drawn
    from tasks.seq2seq.task import EVAL

    if name == "qa":
        return 1 / passages.PEOPLE  # better than any fixed one: a fact of the kind that is asked for, of anybody in the text
    if name in ("reward", "dpo"):
        return 1 / 2  # of two answers one is the better one
    if name == "reranker":
        return sum(1 / place for place in range(1, 11)) / 10  # one of ten, in any order
    if name == "seq2seq":  # the source as it is: every word of the target but for a few, and never right
        return sum(row["source"] == row["target"] for row in passive.sentences(EVAL, 1)) / EVAL
    if name == "captioning":
        answers = Counter(drawn("eval")[1])
    else:
        task, _, _ = open_model(f"runs/{name}", find, device="cpu")
        rows = task.examples()["eval"]
        if name == "embeddings":
            return TOP / len(rows)
        loader = eval_loader(task, rows, Layout(), TrainConfig(), World(torch.device("cpu")))
        if name == "ner":
            return best_constant_tag(task, loader)
        answers = Counter(label for batch in loader for label in batch.targets["labels"].tolist())
    return max(answers.values()) / answers.total()


def best_constant_tag(task: Any, loader: Any) -> float:
    """F1 of whole names if every word had the same tag, the best of them."""
    import torch

    from tasks.tagging.tags import kinds_of, of_rows

    figures = [task.metrics("eval") for _ in task.names]
    assert kinds_of(task.names) is not None
    for batch in loader:
        for tags in of_rows(batch.targets["labels"], batch):
            for i, each in enumerate(figures):
                each.count(tags, torch.full_like(tags, i))
    return max(float(each.compute()["f1"]) for each in figures)


def measure(name: str) -> dict[str, Any]:
    """Train afresh, then use the model."""
    tutorial = TUTORIALS[name]
    _, seconds = run(f"{tutorial.train} --overwrite")
    document = json.loads(Path(f"runs/{name}/run.json").read_text())
    said, use_seconds = run(tutorial.use)
    value, rows = document["metrics"][f"eval_{tutorial.figure}"], document["data"]["num_examples"]["eval"]
    rows //= 10 if name == "reranker" else 1  # of each query ten pairs, and one figure
    constant = trivial(name)
    error = max((value * (1 - value) / rows) ** 0.5, 1 / rows)
    return {
        "train": tutorial.train, "use": tutorial.use, "said": said, "seconds": round(seconds, 1),
        "use_seconds": round(use_seconds, 1), "data": document["data"]["source"], "model": document["model"], "rows": rows,
        "figure": tutorial.figure, "value": value, "standard_error": error, "trivial": constant,
        "above_trivial": value > constant + 3 * error, "device": document["device"], "precision": document["precision"],
        "metrics": document["metrics"],
    }  # fmt: skip


def table(rows: dict[str, Any]) -> str:
    """Markdown: the command, what comes out, how long it takes."""
    lines = ["| without the Hub, on two cores | held-out rows | | minutes | then |", "|---|---|---|---|---|"]
    for row in (rows[name] for name in TUTORIALS if name in rows):
        found = f"{row['figure']} {row['value']:.3f} ± {row['standard_error']:.3f}"
        if (perplexity := row["metrics"].get("eval_perplexity")) is not None:
            found += f", perplexity {perplexity:.3g}"
        lines.append(f"| `python run.py {row['train']}` | {row['rows']:,} | {found} | {row['seconds'] / 60:.1f} "
                     f"| `python run.py {row['use']}` |")  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    parser = make_parser("tutorials", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", type=one_of(TUTORIALS), help=", ".join(TUTORIALS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args(argv)
    path = RESULTS / "tutorials-cpu.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    missing = [] if options.table else options.names or [name for name in TUTORIALS if name not in rows]
    if missing:
        inputs()
    for name in missing:
        rows[name] = measure(name)
        print(rows[name]["said"], flush=True)
        keep(path, {"rows": rows})
    print(table(rows))
    return 0 if all(row["above_trivial"] for row in rows.values()) else 1
