"""One architecture and one task: a tiny random model trained for two steps through the real command line, evaluated, saved,
loaded, and what it predicts compared with the library's own forward, a text at a time.

Next: table.py, which forks one process for each of these.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import run
from bench.architectures.shrink import MOST_PARAMETERS, OWN, shrunk
from bench.toys import tiny

AUTO = {
    "classification": transformers.AutoModelForSequenceClassification,
    "mlm": transformers.AutoModelForMaskedLM,
    "clm": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}
LONGEST = 40  # tokens of a text
WRITTEN = 6  # tokens that are written
TOLERANCE = 1e-4  # of probabilities, and of the loss


@dataclass(frozen=True)
class Verdict:
    """``what``: packed, padded, refused (in one clear line), not tried (the library itself cannot), or fault."""

    architecture: str
    task: str
    what: str
    why: str = ""


def known(task: str) -> list[str]:
    """The names that the task's Auto class knows."""
    return sorted(AUTO[task]._model_mapping._model_mapping)


def try_one(architecture: str, task: str, folder: Path) -> Verdict:
    """Never raises: what goes wrong is the verdict."""
    try:
        save_tiny(architecture, task, folder / "model")
    except Exception as error:
        return Verdict(architecture, task, "not tried", f"no tiny model: {in_short(error)}")
    save_texts(folder, task)
    code, lines, raised = call(train_flags(task, folder))
    if raised or code:
        return failed(architecture, task, code, lines, raised)
    matters = " (padding matters)" if any(line.startswith("warning: padding changes") for line in lines) else ""
    padded = [line for line in lines if line.startswith("batching: padded, because ")]
    layout = ("padded", padded[0].removeprefix("batching: padded, because ") + matters) if padded else ("packed", "")
    try:
        COMPARE[task](folder)
    except Exception as error:
        return Verdict(architecture, task, "fault", f"{layout[0]}: {in_short(error)}")
    return Verdict(architecture, task, *layout)


def failed(architecture: str, task: str, code: int, lines: Sequence[str], raised: str) -> Verdict:
    """Refused in one line, or a fault."""
    said = [line for line in lines if line.startswith("error: ")]
    if not raised and len(said) == 1 and said == list(lines[-1:]):
        return Verdict(architecture, task, "refused", re.sub(r"/\S+/model\b", "MODEL", said[0].removeprefix("error: ")))
    return Verdict(architecture, task, "fault", raised or f"exit code {code}: {' '.join(lines[-3:])}")


def save_tiny(architecture: str, task: str, folder: Path) -> None:
    """A random model of this architecture with weights large enough that a mistake in attention shows, and a tokenizer."""
    kind = transformers.CONFIG_MAPPING[architecture]
    own = dict(OWN.get(architecture, {}))
    if "is_decoder" in kind().to_dict():
        own["is_decoder"] = task == "clm"
    config = kind.from_dict(shrunk(kind().to_dict(), own))
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0  # as published T5s have it
    with torch.device("meta"):
        number = sum(p.numel() for p in AUTO[task].from_config(config).parameters())
    if number > MOST_PARAMETERS:
        raise ValueError(f"its fields leave it {number:,} parameters")
    torch.manual_seed(0)
    model = AUTO[task].from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    given = {"input_ids": torch.tensor([[2, 7, 8, 9, 3]])}
    given |= {"decoder_input_ids": given["input_ids"]} if task == "seq2seq" else {}
    with torch.no_grad():
        found = model(**given).logits
    if not torch.isfinite(found).all():
        raise ValueError("its random weights give no finite numbers")
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "bos_token": "[CLS]"})
    tokenizer.model_max_length = LONGEST
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's, whatever the model takes
    tokenizer.save_pretrained(folder)


def texts() -> list[str]:
    """Six, of 3 to 30 words."""
    return [" ".join(tiny.WORDS[(5 * i + 7 * n) % 90] for n in range(i)) for i in (3, 5, 7, 12, 20, 30)]


def save_texts(folder: Path, task: str) -> None:
    """train.jsonl and eval.jsonl, with labels; for mlm and clm the same texts. What is to be written is another one of them."""
    for name in ("train", "eval"):
        rows = [
            {"text": text, "label": "abc"[i % 3], "source": text, "target": texts()[i - 3]} for i, text in enumerate(texts())
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_flags(task: str, folder: Path) -> list[str]:
    """Two steps."""
    length = "--block-size" if task == "clm" else "--max-length"
    written = ["--max-target-length", str(LONGEST), "--max-new-tokens", str(WRITTEN)] if task == "seq2seq" else []
    return [
        "--task", task, "--model", str(folder / "model"), "--train-file", str(folder / "train.jsonl"),
        "--eval-file", str(folder / "eval.jsonl"), "--output-dir", str(folder / "out"), "--max-steps", "2", "--batch-size", "6",
        "--device", "cpu", "--precision", "fp32", length, str(LONGEST),
        *(["--documents", "packed"] if task == "clm" else written),
    ]  # fmt: skip


def call(argv: Sequence[str]) -> tuple[int, list[str], str]:
    """Exit code, the lines of both streams, and of a traceback its last line and where it comes from."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code, raised = run.main(list(argv)), ""
        except SystemExit as stop:
            code, raised = int(stop.code or 0), ""
        except BaseException as error:
            code, raised = 1, in_short(error)
    return code, out.getvalue().splitlines(), raised


def done(argv: Sequence[str]) -> None:
    """Raises ValueError unless the command line ends well."""
    code, lines, error = call(argv)
    if code or error:
        raise ValueError(error or f"{argv[0]}: exit code {code}: {lines[-1] if lines else ''}")


def in_short(error: BaseException) -> str:
    """Its kind, what it says, and the last line of code in it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]} ({Path(last.filename).name}:{last.lineno})"


# ---------------------------------------------------------------------------------------------- the library's own forward


def library(task: str, folder: Path) -> tuple[Any, nn.Module]:
    """Tokenizer and model as transformers loads them from the run's directory."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "out")
    return tokenizer, AUTO[task].from_pretrained(folder / "out", dtype=torch.float32).eval()


def equal(what: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Raises ValueError where they differ."""
    if len(ours) != len(theirs):
        raise ValueError(f"{what}: {len(ours)} numbers, and {len(theirs)} by the library")
    gap = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if not gap < TOLERANCE:
        raise ValueError(f"{what} differ from the library's own forward by {gap:.1e}")


def of_classes(folder: Path) -> None:
    """Probabilities of each text."""
    model_dir, found = str(folder / "out"), folder / "found.jsonl"
    done(["evaluate", "--model", model_dir, "--device", "cpu"])
    done(["predict", "--model", model_dir, "--device", "cpu", "--input", str(folder / "eval.jsonl"), "--output", str(found)])
    ours = [list(json.loads(line)["probabilities"].values()) for line in found.read_text().splitlines()]
    tokenizer, model = library("classification", folder)
    for text, row in zip(texts(), ours, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=LONGEST)).logits[0]
        equal(f"probabilities of {len(text.split())} words", row, logits.float().softmax(-1).tolist())


def of_masks(folder: Path) -> None:
    """Probabilities of the words in two gaps."""
    done(["evaluate", "--model", str(folder / "out"), "--device", "cpu"])
    text = " ".join(["w1", "[MASK]", *tiny.WORDS[:9], "[MASK]", "w7"])
    from engine.finished import open_model
    from tasks import find

    task: Any
    task, model, layout = open_model(str(folder / "out"), find, device="cpu", base="mlm")
    [masks] = [each["masks"] for each in task.fill(model, [text], layout, top_k=5)]
    tokenizer, theirs = library("mlm", folder)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        logits = theirs(**inputs).logits[0]
    places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    for place, mask in zip(places, masks, strict=True):
        best = logits[place].float().softmax(-1).topk(5).values.tolist()
        equal("probabilities of a gap", [p for _, p in mask], best)


def of_words(folder: Path) -> None:
    """The loss on the evaluation texts, and the text that follows a prompt."""
    figures = folder / "figures.json"
    done(["evaluate", "--model", str(folder / "out"), "--device", "cpu", "--precision", "fp32", "--output", str(figures)])
    tokenizer, model = library("clm", folder)
    nats = number = 0.0
    for text in texts():
        ids = torch.tensor([tokenizer(text)["input_ids"][:LONGEST]])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        nats += float(nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        number += ids.shape[1] - 1
    loss = json.loads(figures.read_text())["eval_loss"]
    equal("losses", [loss], [nats / number] if math.isfinite(nats) else [])
    done(["generate", "--model", str(folder / "out"), "--device", "cpu", "--max-new-tokens", "5", "w1 w2 w3"])


def of_targets(folder: Path) -> None:
    """The loss on the evaluation targets, and what is written from each text."""
    figures, found = folder / "figures.json", folder / "found.jsonl"
    use = ["--model", str(folder / "out"), "--device", "cpu"]
    done(["evaluate", *use, "--precision", "fp32", "--output", str(figures)])
    done(["predict", *use, "--input", str(folder / "eval.jsonl"), "--output", str(found)])
    tokenizer, model = library("seq2seq", folder)
    nats = number = 0.0
    for line in found.read_text().splitlines():
        row = json.loads(line)
        inputs = tokenizer(row["source"], return_tensors="pt", truncation=True, max_length=LONGEST)
        labels = tokenizer(text_target=row["target"], return_tensors="pt", truncation=True, max_length=LONGEST)["input_ids"]
        own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        given = (
            {"labels": labels} if own is None else {"decoder_input_ids": own(labels=labels.clone())}
        )  # as the library's collator
        with torch.inference_mode():
            logits = model(**inputs, **given, use_cache=False).logits.float()
            written = model.generate(**inputs, max_new_tokens=WRITTEN, do_sample=False)  # type: ignore[operator]
        nats += float(nn.functional.cross_entropy(logits[0], labels[0], reduction="sum"))
        number += labels.shape[1]
        if row["generated"] != (theirs := tokenizer.decode(written[0], skip_special_tokens=True)):
            raise ValueError(f"from {len(row['source'].split())} words {row['generated']!r}, and {theirs!r} by the library")
    equal("losses", [json.loads(figures.read_text())["eval_loss"]], [nats / number] if math.isfinite(nats) else [])


COMPARE: dict[str, Callable[[Path], None]] = {
    "classification": of_classes, "mlm": of_masks, "clm": of_words, "seq2seq": of_targets,
}  # fmt: skip


def write_verdict(architecture: str, task: str, folder: Path) -> None:
    """Into verdict.json of the folder."""
    (folder / "verdict.json").write_text(json.dumps(asdict(try_one(architecture, task, folder))))
