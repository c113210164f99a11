"""Every architecture of transformers as a tiny model: the page is what the command writes, and the command finds what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import transformers

from bench.architectures import try_one as module
from bench.architectures.shrink import shrunk
from bench.architectures.table import KINDS, TASKS, line_of, page
from bench.architectures.try_one import Verdict, known, try_one
from bench.machine import ROOT

PAGE = (ROOT / "docs/architectures.md").read_text(encoding="utf-8")


def verdict(row: str) -> list[str]:
    """Architecture, verdict, and the reason without the parameter that it names."""
    return re.sub(r"\S+ gets a gradient", "gets a gradient", row).split(" | ")


def rows_of(task: str) -> list[str]:
    return re.findall(
        r"^\| \S+ \| (?:packed|padded|refused|not tried|fault) \|.*\|$",
        PAGE.split(f"`--task {task}`")[1].split("\n## ")[0],
        re.M,
    )


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench", "architectures", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)


@pytest.mark.slow
def test_a_few_rows_of_the_page_are_what_the_command_finds():
    """One that is packed, one to which padding matters, one with an encoder and a decoder, one that is refused."""
    few = ["bert", "fnet", "t5", "perceiver"]
    done = run("--tasks", "classification", "--only", *few)
    assert done.returncode == 0, done.stderr
    found = [line.removeprefix("classification").strip() for line in done.stdout.splitlines()]
    assert len(found) == len(few) and set(found) <= set(rows_of("classification")), found
    assert [line.split(" | ")[1] for line in found] == ["packed", "padded", "refused", "padded"]
    assert "padding matters" in found[1]


def test_the_page_has_every_architecture_once_and_no_fault():
    """Every one of the transformers that it names; another one knows others."""
    counts = {}
    for task in TASKS:
        rows = rows_of(task)
        if f"transformers {transformers.__version__}," in PAGE:
            assert [row.split(" | ")[0][2:] for row in rows] == known(task)
        kinds = [row.split(" | ")[1] for row in rows]
        counts[task] = [kinds.count(kind) for kind in KINDS]
        assert f"| {task} | " + " | ".join(map(str, [*counts[task], len(rows)])) + " |" in PAGE
        assert counts[task][-1] == 0
    worked = {task: sum(counts[task][:2]) for task in TASKS}
    assert worked["classification"] >= 60 and worked["mlm"] >= 40 and worked["clm"] >= 40, worked


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_them():
    """No fault, and none of the page's rows has become another; which of many parameters the reason names may differ."""
    done = run()
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if "| fault |" in line]
    for task in TASKS:
        found = [line.removeprefix(task).strip() for line in done.stdout.splitlines() if line.split()[0] == task]
        assert list(map(verdict, found)) == list(map(verdict, rows_of(task)))


def test_an_answer_that_is_not_the_librarys_is_a_fault(tmp_path, monkeypatch):
    real = module.library

    def another(task, folder):
        tokenizer, model = real(task, folder)
        model.classifier.bias.data += 1e-2 * model.classifier.bias.new_tensor([1, 0, 0])
        return tokenizer, model

    monkeypatch.setattr(module, "library", another)
    found = try_one("bert", "classification", tmp_path)
    assert found.what == "fault" and "differ from the library's own forward" in found.why


def test_a_traceback_and_several_error_lines_are_faults_and_one_line_is_a_refusal():
    verdicts = [
        module.failed("x", "mlm", 4, ["note", "error: model /tmp/a/model is no good"], ""),
        module.failed("x", "mlm", 1, [], "KeyError: 1 (a.py:3)"),
        module.failed("x", "mlm", 4, ["error: a", "error: b"], ""),
        module.failed("x", "mlm", 4, ["error: a", "and more"], ""),
    ]
    assert [verdict.what for verdict in verdicts] == ["refused", "fault", "fault", "fault"]
    assert verdicts[0].why == "model MODEL is no good"


def test_a_configuration_is_made_small_by_its_fields():
    big = {"hidden_size": 4096, "num_hidden_layers": 6, "layer_types": ["a", "a", "b"] * 2, "vocab_size": 10**5, "eos_token_id": 9,
           "num_attention_heads": 32, "image_token_id": 99_999, "dropout": 0.1, "text_config": {"model_type": "x", "n_embd": 999}}  # fmt: skip
    small = shrunk(big, {"dropout": 0})
    assert small == {
        "hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["a", "b"], "vocab_size": 128, "eos_token_id": 3, "num_attention_heads": 4,
        "image_token_id": small["image_token_id"], "dropout": 0, "text_config": {"model_type": "x", "n_embd": 32},
    }  # fmt: skip
    assert small["image_token_id"] < 128


def test_the_page_shortens_reasons_and_counts_kinds():
    found = [
        Verdict("bert", "classification", "packed"),
        Verdict(
            "deberta",
            "mlm",
            "padded",
            "DebertaForMaskedLM does not take packed batches (DebertaForMaskedLM has its attention built in)",
        ),
        Verdict(
            "llama4",
            "clm",
            "padded",
            "packed and padded batches differ on a small Llama4ForCausalLM (by 2e+00) (padding matters)",
        ),
    ]
    assert line_of(found[1]) == "| deberta | padded | attention built in |"
    assert line_of(found[2]) == "| llama4 | padded | packed and padded batches differ (padding matters) |"
    assert "| mlm | 0 | 1 | 0 | 0 | 0 | 1 |" in page(found)
