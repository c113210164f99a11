"""--task mlm and fill through run.py: the finished model in transformers' pipeline, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import re

import pytest
from transformers import AutoModelForMaskedLM, pipeline

import run
from bench.toys import tiny
from tests.toys.cli import fails
from tests.toys.language import gpt2, masked_bert

TEXTS = ["w0 [MASK] w9", "[MASK] w1 w44 [MASK] w6", "w9 w8 w7 w6 w5 [MASK]"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model directory without a head for tokens, data, and a finished run over them."""
    folder = tmp_path_factory.mktemp("mlm")
    tiny.save_model(folder / "model", tiny.bert().bert)
    with open(folder / "train.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([" ".join([text] * 3)] for text, _ in tiny.texts(60)), [" "]])
    assert run.main(command(folder, "--output-dir", str(folder / "run"))) == 0
    return folder


def command(folder, *more: str) -> list[str]:
    return ["--task", "mlm", "--model", str(folder / "model"), "--train-file", str(folder / "train.csv"), "--eval-fraction", "0.2",
            "--max-length", "16", "--max-train-examples", "0", "--max-eval-examples", "0", "--epochs", "2", "--device", "cpu", *more]  # fmt: skip


def test_a_finished_run(project, capsys):
    """Long texts are cut into pieces, not cut off; a new head is said to be one; its matrix is that of the embeddings."""
    document = json.loads((project / "run/run.json").read_text())
    assert document["data"]["num_examples"]["train"] > 49 and document["batching"] == "packed"
    assert set(document["metrics"]) >= {"eval_loss", "eval_perplexity", "eval_accuracy"}
    model = AutoModelForMaskedLM.from_pretrained(project / "run")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert run.main(command(project, "--output-dir", str(project / "run"))) == 0
    assert "finished model found" in capsys.readouterr().out


def test_only_the_head_may_be_new(project, tmp_path, capsys):
    run.main(command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1"))
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model: new")]
    names = line.removeprefix("model: new, to be trained: ").split(", ")
    assert names and all(name.startswith("cls.predictions.") for name in names)


def test_fill_gives_the_numbers_of_the_pipeline(project, capsys):
    fill = pipeline("fill-mask", model=str(project / "run"), device="cpu", top_k=4)
    assert run.main(["fill", "--model", str(project / "run"), "--device", "cpu", "--top-k", "4", *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = []
    for text, found in zip(TEXTS, fill(TEXTS), strict=True):
        masks = found if isinstance(found[0], list) else [found]
        for number, mask in enumerate(masks, start=1):
            expected.append(f"{text} (mask {number} of {len(masks)})")
            expected += [f"{row['token_str']}\t{row['score']:.4f}" for row in mask]
    assert len(expected) == 4 * 5 and [line.split("\t")[0] for line in lines] == [line.split("\t")[0] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        if "\t" in line:
            assert float(line.split("\t")[1]) == pytest.approx(float(other.split("\t")[1]), abs=1.01e-4)  # as printed


def test_one_text_with_one_mask_is_token_and_score_alone(project, capsys):
    assert run.main(["fill", "--model", str(project / "run"), TEXTS[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split("\t")[1]) for line in lines]
    assert len(lines) == 5 and scores == sorted(scores, reverse=True)


def test_a_file_is_filled_in(project, tmp_path, capsys):
    file, output = tmp_path / "texts.txt", tmp_path / "filled.jsonl"
    file.write_text("".join(f"{text}\n" for text in TEXTS))
    assert run.main(["fill", "--model", str(project / "run"), *TEXTS, "--top-k", "2"]) == 0
    scores = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert run.main(["fill", str(project / "run"), "--input", str(file), "--output", str(output), "--top-k", "2"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    found = [pair for line in lines for mask in line["masks"] for pair in mask]
    assert [(token.strip(), f"{p:.4f}") for token, p in found] == [tuple(pair) for pair in scores]
    for text, line in zip(TEXTS, lines, strict=True):
        best = iter([mask[0][0].strip() for mask in line["masks"]])
        assert line["text"] == text and line["filled"] == "".join(
            part if part != "[MASK]" else next(best) for part in re.split(r"(\[MASK\])", text)
        )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["w1 w2"], 3, "text 1 has no [MASK]: put one where a word is to be filled in"),
        (["w1 [MASK]", ""], 3, "text 2 has no [MASK]"),
        (["w1 " * 40 + "[MASK]"], 3, "text 1 has 43 tokens, this model takes at most 32: shorten it"),
        ([], 2, "give a text: python run.py fill"),
        (["--top-k", "0", "[MASK]"], 2, "--top-k must be at least 1, found 0"),
    ],
)
def test_bad_texts_are_one_line(project, capsys, arguments, code, words):
    got, line = fails(["fill", "--model", str(project / "run"), *arguments], capsys)
    assert got == code and words in line


def test_models_that_are_none(project, tmp_path, capsys):
    code, line = fails(["fill", "--model", str(project / "model"), "[MASK]"], capsys)
    assert code == 4 and "is no masked language model: it lacks cls.predictions" in line
    tiny.save_model(tmp_path / "gpt2", gpt2())
    code, line = fails(["fill", "--model", str(tmp_path / "gpt2"), "[MASK]"], capsys)
    assert (code, line) == (4, f"error: model {tmp_path / 'gpt2'} is a gpt2 model, and no masked language model")
    tiny.save_model(tmp_path / "maskless", masked_bert())
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        if (path := tmp_path / "maskless" / name).exists():
            path.write_text(path.read_text().replace('"mask_token": "[MASK]"', '"mask_token": null'))
    arguments = command(project, "--output-dir", str(tmp_path / "out"))
    arguments[3] = str(tmp_path / "maskless")
    code, line = fails(arguments, capsys)
    assert code == 4 and "its tokenizer has no mask token" in line
    code, line = fails(["fill", "--model", str(tmp_path / "maskless"), "w1 [MASK]"], capsys)
    assert code == 4 and "its tokenizer has no mask token" in line


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--whole-word"], 2, "--whole-word needs a WordPiece tokenizer"),
        (["--mask-probability", "0"], 2, "--mask-probability must lie between 0 and 1, found 0.0"),
        (["--mask-probability", "1"], 2, "--mask-probability must lie between 0 and 1"),
        (["--text-column", "review"], 3, "no column 'review'"),
    ],
)
def test_bad_settings_are_one_line(project, tmp_path, capsys, flags, code, words):
    got, line = fails(command(project, "--output-dir", str(tmp_path / "out"), *flags), capsys)
    assert got == code and words in line


def test_evaluate_gives_the_figures_of_the_run(project, capsys):
    capsys.readouterr()
    assert run.main(["evaluate", "--model", str(project / "run"), "--device", "cpu"]) == 0
    printed = dict(line.split(" = ") for line in capsys.readouterr().out.splitlines() if " = " in line)
    metrics = json.loads((project / "run/run.json").read_text())["metrics"]
    figures = {name.strip(): float(value) for name, value in printed.items()}
    for name in ("eval_loss", "eval_perplexity", "eval_accuracy"):
        assert figures[name] == pytest.approx(metrics[name], abs=1e-3)
