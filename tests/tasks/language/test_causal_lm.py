"""--task clm and generate through run.py: what a text file is, transformers' own generate, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import run
from bench.toys import tiny
from engine.console import printable_lines
from engine.data.sources import Source, SourceConfig
from tasks.language.causal_lm import CausalLM, CausalOptions
from tasks.language.scratch import END, train_tokenizer
from tests.toys.cli import fails
from tests.toys.language import gpt2, masked_bert

LINES = [text for text, _ in tiny.texts(120)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small GPT-2 whose end token pads, too, a story, and a finished run over it."""
    folder = tmp_path_factory.mktemp("clm")
    tokenizer = train_tokenizer(LINES)
    end = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    gpt2(vocab_size=len(tokenizer), **end).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "story.txt").write_text("\n".join([*LINES[:60], "", *LINES[60:]]) + "\n")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in [*LINES, "  "]))
    assert run.main(command(folder, "--output-dir", str(folder / "run"))) == 0
    return folder


def command(folder, *more: str) -> list[str]:
    return ["--task", "clm", "--model", str(folder / "model"), "--train-file", str(folder / "story.txt"), "--eval-fraction", "0.1",
            "--block-size", "32", "--epochs", "2", "--learning-rate", "1e-3", "--device", "cpu", "--precision", "fp32", *more]  # fmt: skip


def rows_of(folder, file: str, **options):
    """The token ids of each row, and the task."""
    source = Source(SourceConfig(model=str(folder / "model"), train_file=str(folder / file)))
    task = CausalLM(CausalOptions(**options), source)
    examples = task.examples()["train"]
    return [examples[i]["input_ids"].tolist() for i in range(len(examples))], task


def test_a_text_file_is_one_text_with_its_line_breaks(project):
    rows, task = rows_of(project, "story.txt", block_size=32)
    assert {len(row) for row in rows[:-1]} == {32}
    assert task.tokenizer.decode(np.concatenate(rows)) == (project / "story.txt").read_text()


def test_a_decoder_with_berts_tokenizer_trains_on_what_it_will_write_from(tmp_path):
    """BERT's tokenizer gives token types, which GPT-2 adds to its embeddings, and which generate does not give."""
    tiny.tokenizer().save_pretrained(tmp_path)
    gpt2(vocab_size=100).save_pretrained(tmp_path)
    (tmp_path / "story.txt").write_text("\n".join(LINES[:20]))
    source = Source(SourceConfig(model=str(tmp_path), train_file=str(tmp_path / "story.txt")))
    task = CausalLM(CausalOptions(block_size=32), source)
    task.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in task.tokenizer("w1")  # so the rows would have them, too
    assert set(task.examples()["train"][0]) == {"input_ids"}


def test_a_long_text_file_is_read_in_parts(project, monkeypatch):
    monkeypatch.setattr("tasks.language.causal_lm.LINES_AT_ONCE", 7)
    rows, task = rows_of(project, "story.txt", block_size=32)
    assert task.tokenizer.decode(np.concatenate(rows)) == (project / "story.txt").read_text()


def test_other_rows_are_joined_with_the_end_token_between(project):
    rows, task = rows_of(project, "rows.jsonl", block_size=32)
    assert task.tokenizer.decode(np.concatenate(rows)) == "".join(line + END for line in LINES), "the blank one is left out"


@pytest.mark.parametrize("file", ["rows.jsonl", "story.txt"])
def test_documents_apart(project, file):
    """A row begins where a text begins or a long one goes on; each ends with the end token."""
    rows, task = rows_of(project, file, block_size=32, documents="packed")
    assert max(map(len, rows)) <= 32
    assert sum(row[-1] == task.tokenizer.eos_token_id for row in rows) == len(LINES)
    assert all(task.tokenizer.eos_token_id not in row[:-1] for row in rows)
    assert task.tokenizer.decode(np.concatenate(rows)) == "".join(line + END for line in LINES)


def test_the_end_token_is_a_target_though_it_pads(project):
    """Masked by the attention mask alone: the last token before it has it as its label, and padding has none."""
    _, task = rows_of(project, "rows.jsonl", documents="packed")
    end = task.tokenizer.eos_token_id
    assert task.tokenizer.pad_token_id == end
    rows = [{"input_ids": np.array([5, 6, end])}, {"input_ids": np.array([5, end])}]
    from engine.data.collate import Layout

    batch = task.collate(rows, Layout())
    assert batch.targets["labels"].tolist() == [6, end, end] and batch.num_items == 3
    assert batch.inputs["target_index"].tolist() == [0, 1, 3]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_the_end_of_a_text_file_is_held_out(project):
    source = Source(SourceConfig(model=str(project / "model"), train_file=str(project / "story.txt"), eval_fraction=0.1))
    task = CausalLM(CausalOptions(), source)
    parts = task.splits()
    assert parts["train"]["text"][:] + parts["eval"]["text"][:] == (project / "story.txt").read_text().splitlines()
    assert len(parts["eval"]) == 12


def test_bits_per_byte(project):
    """All nats of the held-out text over its bytes, worked out by hand from the finished model."""
    metrics = json.loads((project / "run/run.json").read_text())["metrics"]
    text = "\n".join((project / "story.txt").read_text().splitlines()[-12:]) + "\n"
    model = AutoModelForCausalLM.from_pretrained(project / "run")
    ids = AutoTokenizer.from_pretrained(project / "run")(text, return_tensors="pt")["input_ids"][0]
    nats = []
    for block in ids.split(32):
        with torch.no_grad():
            logits = model(input_ids=block[None]).logits[0, :-1].log_softmax(-1)
        nats += (-logits[torch.arange(len(block) - 1), block[1:]]).tolist()
    assert metrics["eval_loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert metrics["eval_bits_per_byte"] == pytest.approx(np.mean(nats) * len(ids) / np.log(2) / len(text.encode()), rel=1e-5)


# -------------------------------------------------------------------------------------------------------- generate


def test_greedy_equals_the_pipeline(project, capsys):
    prompts = ["w1 w2", "w40 w3 w4 w5"]
    write = pipeline("text-generation", model=str(project / "run"), device="cpu")
    expected = [write(prompt, max_new_tokens=12, do_sample=False)[0]["generated_text"] for prompt in prompts]
    arguments = ["generate", "--model", str(project / "run"), "--device", "cpu", "--max-new-tokens", "12"]
    assert run.main([*arguments, *prompts]) == 0
    assert capsys.readouterr().out == "\n---\n".join(expected) + "\n"


def test_sampling_equals_transformers_generate_with_the_same_seed(project, capsys):
    arguments = ["--temperature", "0.9", "--top-p", "0.8", "--num-return-sequences", "3", "--no-repeat-ngram-size", "2",
                 "--seed", "7", "--max-new-tokens", "9", "--device", "cpu"]  # fmt: skip
    assert run.main(["generate", "--model", str(project / "run"), "w1 w2", *arguments]) == 0
    printed = capsys.readouterr().out.removesuffix("\n").split("\n---\n")
    model, tokenizer = (auto.from_pretrained(project / "run") for auto in (AutoModelForCausalLM, AutoTokenizer))
    torch.manual_seed(7)
    rows = model.generate(
        **tokenizer("w1 w2", return_tensors="pt"), do_sample=True, temperature=0.9, top_p=0.8, num_return_sequences=3,
        no_repeat_ngram_size=2, max_new_tokens=9,
    )  # fmt: skip
    assert printed == tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert len(set(printed)) > 1


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--num-beams", "3", "--num-return-sequences", "2"], {"num_beams": 3, "num_return_sequences": 2}),
        (["--repetition-penalty", "1.7"], {"repetition_penalty": 1.7}),
        (["--top-k", "3"], {"do_sample": True, "top_k": 3}),
        (["--top-k", "0", "--temperature", "2"], {"do_sample": True, "top_k": 0, "temperature": 2.0}),
    ],
)
def test_settings_of_writing_are_those_of_transformers(project, capsys, flags, options):
    assert (
        run.main(["generate", "--model", str(project / "run"), "w1 w2", "--max-new-tokens", "9", "--device", "cpu", *flags])
        == 0
    )
    printed = capsys.readouterr().out.removesuffix("\n").split("\n---\n")
    model, tokenizer = (auto.from_pretrained(project / "run") for auto in (AutoModelForCausalLM, AutoTokenizer))
    torch.manual_seed(42)
    rows = model.generate(**tokenizer("w1 w2", return_tensors="pt"), max_new_tokens=9, **options)
    assert printed == [printable_lines(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def test_it_ends_before_a_word_that_stops_it(project, capsys):
    arguments = ["generate", "--model", str(project / "run"), "w1 w2", "--max-new-tokens", "12", "--device", "cpu"]
    assert run.main(arguments) == 0
    whole = capsys.readouterr().out.removesuffix("\n")
    words = whole.removeprefix("w1 w2").split()
    stop = words[4]
    assert run.main([*arguments, "--stop", "never", stop]) == 0
    assert capsys.readouterr().out.removesuffix("\n") == "w1 w2" + whole.removeprefix("w1 w2").partition(stop)[0]


def test_streamed_text_is_the_same_text(project, capsys):
    arguments = ["generate", "--model", str(project / "run"), "w1 w2", "w3", "--max-new-tokens", "12", "--device", "cpu"]
    assert run.main(arguments) == 0
    whole = capsys.readouterr().out
    assert run.main([*arguments, "--stream"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [line.split() for line in whole.splitlines()]


def test_what_a_model_writes_cannot_drive_the_terminal_nor_a_spreadsheet(tmp_path, capsys):
    """A stranger's vocabulary holds what it will."""
    model = tiny.save_model(tmp_path / "model", gpt2())
    path = model / "tokenizer.json"
    path.write_text(re.sub(r'"w(\d+)": ?', lambda found: json.dumps(f"=\x1b]0;w{found[1]}\x07") + ": ", path.read_text()))
    arguments = ["generate", "--model", str(model), "--device", "cpu", "--max-new-tokens", "8", "--temperature", "5"]
    for more in ([], ["--stream"], ["--num-return-sequences", "2"]):
        assert run.main([*arguments, *more, "w1 \x1b[2J"]) == 0
        said = capsys.readouterr()
        assert "]0;w" in said.out and "\x1b" not in said.out + said.err and "\x07" not in said.out
    (tmp_path / "p.csv").write_text("text\n=w1\n")
    arguments += ["--input", str(tmp_path / "p.csv")]
    assert run.main([*arguments, "--output", str(tmp_path / "o.csv"), "--excel-safe"]) == 0
    with open(tmp_path / "o.csv", newline="") as stream:
        [row] = csv.DictReader(stream)
    assert row["text"] == "'=w1" and "\x1b]0;w" in row["generated"] and row["generated"].lstrip(" '")[0] == "="
    assert not row["generated"].startswith("=")
    code, line = fails([*arguments, "--output", str(tmp_path / "p.csv")], capsys)
    assert code == 2 and "is the input" in line and (tmp_path / "p.csv").read_text() == "text\n=w1\n"


def test_a_file_of_prompts_is_written_on_in_batches(project, tmp_path, capsys, monkeypatch):
    """In the order of the file, its columns kept, and each as alone: none is padded."""
    from tasks.language import generate

    prompts = ["w1 w2", "w40 w3 w4 w5", "w7 w8", "w9", "w2 w1"]
    arguments = ["generate", "--model", str(project / "run"), "--device", "cpu", "--max-new-tokens", "12"]
    assert run.main([*arguments, *prompts, "--batch-size", "1"]) == 0
    expected = capsys.readouterr().out.removesuffix("\n").split("\n---\n")
    (tmp_path / "prompts.csv").write_text("id,text\n" + "".join(f"{i},{prompt}\n" for i, prompt in enumerate(prompts)))
    sizes, call = [], generate.call

    def watched(task, model, together, **options):
        sizes.append(len(together))
        return call(task, model, together, **options)

    monkeypatch.setattr(generate, "call", watched)
    output = tmp_path / "written.jsonl"
    assert run.main([*arguments, "--input", str(tmp_path / "prompts.csv"), "--output", str(output), "--batch-size", "2"]) == 0
    assert capsys.readouterr().out == f"5 texts written to {output}\n" and sizes == [1, 2, 1, 1]
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["text"] + line["generated"] for line in found] == expected and [line["id"] for line in found] == list("01234")


def test_any_causal_model_directory_will_do(project, capsys):
    assert run.main(["generate", "--model", str(project / "model"), "w1 w2", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("w1 w2")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give a prompt: python run.py generate"),
        ([""], 3, "a prompt is empty"),
        (["w1", "--max-new-tokens", "80"], 3, "this model takes at most 64"),
        (["w1", "--num-return-sequences", "2"], 2, "draw some with --temperature or --top-p"),
        (["w1", "--temperature", "0"], 2, "--temperature must be positive, found 0.0"),
        (["w1", "--top-p", "1.5"], 2, "--top-p must be positive and at most 1, found 1.5"),
        (["w1", "--max-new-tokens", "0"], 2, "--max-new-tokens must be at least 1, found 0"),
        (["w1", "--top-k", "-1"], 2, "--top-k must not be negative, found -1"),
        (["w1", "--repetition-penalty", "0"], 2, "--repetition-penalty must be positive, found 0.0"),
        (["w1", "--num-beams", "2", "--num-return-sequences", "3"], 2, "or follow as many with --num-beams"),
        (["w1", "--stream", "--num-beams", "2"], 2, "--stream prints a text while it is written: leave out"),
        (["w1", "--input", "prompts.txt"], 2, "give either a prompt, or --input FILE"),
        (["w1", "--text-column", "prompt"], 2, "--text-column names a column of --input FILE"),
        (["--input", "no.txt"], 3, "no.txt"),
    ],
)
def test_bad_prompts_are_one_line(project, capsys, arguments, code, words):
    got, line = fails(["generate", "--model", str(project / "run"), *arguments], capsys)
    assert got == code and words in line


def test_a_chat_needs_a_template(project, tmp_path, capsys):
    model, tokenizer = (auto.from_pretrained(project / "run") for auto in (AutoModelForCausalLM, AutoTokenizer))
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code, line = fails(["generate", "--model", str(tmp_path), "--chat", "w1"], capsys)
    assert code == 4 and "its tokenizer has no chat template" in line
    assert run.main(["generate", "--model", str(project / "run"), "--chat", "w1", "--max-new-tokens", "3"]) == 0


def test_a_masked_model_does_not_write_on(tmp_path, capsys):
    tiny.save_model(tmp_path, masked_bert())
    code, line = fails(["generate", "--model", str(tmp_path), "w1"], capsys)
    assert code == 4 and "is a bert model that sees the words ahead, and no causal language model" in line


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--block-size", "65"], 2, "--block-size 65: this model takes at most 64 tokens"),
        (["--block-size", "1"], 2, "--block-size must be at least 2, found 1"),
        (["--max-train-examples", "5"], 2, "a .txt file is one text"),
        (["--contains", "w1"], 2, "--eval-part pick rows, and a .txt file is one text"),
        (["--documents", "torn"], 2, "invalid choice: 'torn'"),
    ],
)
def test_bad_settings_are_one_line(project, tmp_path, capsys, flags, code, words):
    arguments = command(project, "--output-dir", str(tmp_path / "out"))
    if flags[0] == "--block-size":
        at = arguments.index("--block-size")
        arguments = arguments[:at] + arguments[at + 2 :]
    got, line = fails([*arguments, *flags], capsys)
    assert got == code and words in line


def test_blank_texts_alone_are_none(project, tmp_path, capsys):
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    code, line = fails(["--task", "clm", "--model", str(project / "model"), "--train-file", str(tmp_path / "blank.jsonl"),
                        "--output-dir", str(tmp_path / "out")], capsys)  # fmt: skip
    assert code == 3 and "all texts are blank" in line


def test_without_a_checkpoint_a_small_model_is_made_from_the_text(project, tmp_path, capsys, monkeypatch):
    """Said in one line; the same text gives the same one, so the finished run is recognised."""
    monkeypatch.setattr("tasks.language.scratch.SIZES", {"n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": 64})
    arguments = [*command(project, "--output-dir", str(tmp_path / "run")), "--max-steps", "2"]
    arguments = arguments[:2] + arguments[4:]
    assert run.main(arguments) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model: ")]
    assert len(lines) == 1 and "using a small GPT-2 with random weights and a tokenizer made from this text" in lines[0]
    assert run.main(arguments) == 0
    assert "finished model found" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{"output_hidden_states": [None, {}]}, {"num_beams": "x"}, {"min_length": [1]}])
def test_what_a_strangers_settings_of_generation_lead_to_is_one_line(project, tmp_path, settings, capsys):
    shutil.copytree(project / "run", tmp_path / "run")
    path = tmp_path / "run/generation_config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))
    code, line = fails(
        ["generate", "--model", str(tmp_path / "run"), "--device", "cpu", "--max-new-tokens", "2", "the"], capsys
    )
    assert (code == 4 and "the model" in line.replace(str(tmp_path), "")) or f"model {tmp_path / 'run'}" in line
