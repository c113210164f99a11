"""Rows S1 to S12: pickles, code, paths, templates and secrets that somebody hostile puts in."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

from bench.bad_input.case import Attempts, Place, Result, call, edit, newest, reseal, row, spawn
from bench.bad_input.forms import HEADER
from bench.bad_input.model_rows import EVIL, with_code
from bench.machine import ROOT
from engine.checkpoint.store import steps_in

TORCHS = "torch's store listens on all addresses: docs/scaling.md"


@row("S1", "weights as a pickle", 4, "model")
def _(at: Place) -> Attempts:
    folder = at.model()
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Payload(at.folder / "marker")))
    yield at.train("--model", str(folder))
    yield at.predict("w1", model=folder)
    assert not (at.folder / "marker").exists(), "the pickle was loaded"


@row("S2", "a pickle beside a checkpoint", 0, "resume: exact, from step 6")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for name in ("optimizer.pt", "rng.pkl", ".metadata"):
        (newest(at) / name).write_bytes(pickle.dumps(Payload(at.folder / "marker")))
    yield arguments
    assert not (at.folder / "marker").exists(), "the pickle was loaded"


@row("S3", "code in a model directory, or named by it", 4, "never run", slow=True)
def _(at: Place) -> Attempts:
    folder = with_code(at)
    yield spawn(at.train("--model", str(folder)), stdin=subprocess.DEVNULL)
    finished = at.finished()
    (finished / "evil.py").write_text(EVIL.format(marker=str(at.folder / "marker")))
    document = json.loads((finished / "run.json").read_text())
    document["settings"]["task"] = f"{finished / 'evil.py'}:Evil"
    (finished / "run.json").write_text(json.dumps(document))
    (finished / "link.py").symlink_to(at.folder / "evil.py")
    yield at.predict("w1", model=finished)
    evil = at.write("evil.py", EVIL.format(marker=str(at.folder / "marker")))
    for task in (f"{evil}:Evil", f"{finished / 'link.py'}:Evil"):  # outside the directory, or behind a link in it
        document["settings"]["task"] = task
        (finished / "run.json").write_text(json.dumps(document))
        yield at.predict("w1", model=finished)
    assert not (at.folder / "marker").exists(), "the code was run"


@row("S4", "paths in manifests and label names", 4, "is not a plain file name")
def _(at: Place) -> Attempts:
    lines = HEADER + "".join(f"w{i},{('../../x', '/etc/x')[i % 2]}\n" for i in range(8))
    assert call(at.on("t.csv", lines, "--output-dir", str(at.folder / "labels"))).code == 0
    assert not (at.folder.parent / "x").exists()
    arguments = at.resume()
    secret = at.write("secret", "mine")
    for step in steps_in(at.out / "checkpoints"):
        entry = {"bytes": 4, "sha256": "0" * 64}
        reseal(at.out / f"checkpoints/step-{step:08d}", files={"../../../secret": entry, secret: entry})
    result = call(arguments)
    warning = next(line for line in result.err.splitlines() if line.startswith("warning: "))
    yield Result(result.code, result.out, warning.replace("warning: ", "error: ", 1), result.raised)


@row("S5", "a chat template that reaches for Python", 0, "saved to")
def _(at: Place) -> Attempts:
    folder = at.model()
    payload = "{{ cycler.__init__.__globals__.os.system('touch " + str(at.folder / "marker") + "') }}"
    edit(folder / "tokenizer_config.json", chat_template=payload)
    (folder / "chat_template.jinja").write_text(payload)
    yield at.train("--model", str(folder))
    assert not (at.folder / "marker").exists(), "the template was run"


@row("S6", "a safetensors header of 2**63 bytes, nested JSON", 4, "")
def _(at: Place) -> Attempts:
    folder = at.model()
    bombs = {"config.json": b"[" * 100_000, "tokenizer.json": b"[" * 100_000, "tokenizer_config.json": b'{"a":' * 100_000,
             "model.safetensors": struct.pack("<Q", 2**63) + b"{}"}  # fmt: skip
    for name, bomb in bombs.items():
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(bomb)
        yield at.train("--model", str(folder))
        (folder / name).write_bytes(good)
    shutil.rmtree(at.out)
    arguments = at.resume()
    for step in steps_in(at.out / "checkpoints"):
        (at.out / f"checkpoints/step-{step:08d}/MANIFEST.json").write_bytes(b"[" * 100_000)
    yield arguments


@row("S7", "the Hub token", 0, "saved to", slow=True)
def _(at: Place) -> Attempts:
    token = "hf_" + "SecretSecret" * 3
    result = yield spawn(at.train(), env=os.environ | {"HF_TOKEN": token, "HUGGING_FACE_HUB_TOKEN": token})
    assert token not in result.out + result.err, "printed"
    assert not any(token.encode() in path.read_bytes() for path in at.folder.rglob("*") if path.is_file()), "written"


@row("S8", "HTML in texts and label names", 0, "saved to")
def _(at: Place) -> Attempts:
    evil = "<script>alert(1)</script>", '" onerror="alert(1)'
    lines = "".join(json.dumps({"text": f"w{i} {evil[i % 2]} </script>", "label": evil[i % 2]}) + "\n" for i in range(16))
    yield at.on("t.jsonl", lines, "--eval-fraction", "0.5")
    for path in at.out.glob("*.html"):
        page = path.read_text()
        assert "<script>alert" not in page and 'onerror="alert' not in page and "default-src 'none'" in page, path.name


@row("S9", "formulas in CSV cells", 0, "predictions written")
def _(at: Place) -> Attempts:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tw1", "w1 =1"]
    with open(at.folder / "i.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    arguments = at.predict("--input", str(at.folder / "i.csv"), "--output", str(at.folder / "o.csv"))
    for more, expected in (([], texts), (["--excel-safe"], ["'" + text for text in texts[:-1]] + texts[-1:])):
        yield [*arguments, *more]
        with open(at.folder / "o.csv", newline="") as stream:
            assert [line["text"] for line in csv.DictReader(stream)] == expected, more


@row("S10", "terminal escapes in texts, labels and file names", 0, "")
def _(at: Place) -> Attempts:
    evil = "\x1b]0;owned\x07\x1b[2J"
    out = str(at.folder / f"o{evil}")
    lines = "".join(json.dumps({"text": f"w{i} {evil}", "label": f"{i % 2}{evil}"}) + "\n" for i in range(8))
    yield at.on(f"t{evil}.jsonl", lines, "--output-dir", out)
    yield at.predict(f"w1 {evil}", model=Path(out))
    yield at.predict("--input", str(at.folder / f"t{evil}.jsonl"), model=Path(out))
    refused = call(at.train("--train-file", str(at.folder / f"none{evil}.csv")))
    assert refused.code == 3 and "\x1b" not in refused.err, refused.err


@row("S11", "shell, eval and exec in the source", 0, "")
def _(at: Place) -> Attempts:
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            assert not (isinstance(called, ast.Name) and name in ("eval", "exec", "compile", "__import__")), f"{path}: {name}"
            assert name not in ("system", "popen", "spawnl", "spawnv"), f"{path}: {name}"
            is_shell = isinstance(node, ast.keyword) and node.arg == "shell"
            assert not is_shell, f"{path}: shell="
    yield Result(0, "", "")


row("S12", "the rendezvous listens on 127.0.0.1 only", 0, needs=TORCHS)(lambda at: iter(()))  # type: ignore[arg-type,return-value]


# ---------------------------------------------------------------------------------------------------------- helpers


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")
