"""--task seq2seq: Seq2SeqTrainer's losses and weights, the library's own generate, figures of the libraries, rows that are none."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5ForConditionalGeneration,
)

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.distributed.world import World
from engine.errors import ModelError, UsageError
from engine.finished import open_model
from engine.loader import eval_loader
from engine.loop import train_step
from engine.model.key_value_cache import keep_for_generate
from engine.model.layout import choose_layout
from engine.model.padding_check import harmless_sides
from tasks import find
from tasks.samples import passive
from tasks.seq2seq.metrics import WritingMetrics, say_what_rouge_misses
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, lines_of, train_to
from tests.toys.writing import CONFIGS, make_task, model, row, rows, save_model, save_rows, tokenizer

QUIET = {"epochs": 2, "learning_rate": 2e-5, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model, rows, and a finished run over them."""
    folder = tmp_path_factory.mktemp("seq2seq")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(120, 0))
    save_rows(folder / "eval.jsonl", rows(40, 1))
    assert run.main([*command(folder), "--output-dir", str(folder / "run"), "--epochs", "4", "--learning-rate", "3e-3"]) == 0
    return folder


def command(folder: Path, train: Any = "train.jsonl", evaluation: Any = "eval.jsonl") -> list[str]:
    return ["--task", "seq2seq", "--model", str(folder / "model"), "--train-file", str(folder / train), "--eval-file",
            str(folder / evaluation), "--device", "cpu", "--batch-size", "8", "--max-target-length", "12"]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- training


def beside_trainer(name: str, folder: Path, smoothing: float = 0.0) -> tuple[Any, ...]:
    """Losses of thirty steps by Seq2SeqTrainer and by the loop, and the largest difference of each parameter."""
    some, pieces = rows(120), tokenizer()
    task = make_task(120, name, label_smoothing=smoothing or None)
    ours = model(name)
    theirs = copy.deepcopy(ours)
    keep_for_generate(theirs)  # as in build(): with keys that a cache has copied, some processors add up in another order
    chosen = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5}
    arguments = Seq2SeqTrainingArguments(
        str(folder), max_steps=30, per_device_train_batch_size=8, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, label_smoothing_factor=smoothing, **chosen,
    )  # fmt: skip
    given = [pieces(each["source"], text_target=each["target"]) for each in some]
    features = [{name: each[name] for name in ("input_ids", "attention_mask", "labels")} for each in given]
    collator = DataCollatorForSeq2Seq(pieces, model=theirs)
    trainer = Seq2SeqTrainer(theirs, arguments, train_dataset=features, data_collator=collator)
    trainer.train()
    log = [line["loss"] for line in trainer.state.log_history if "grad_norm" in line]
    config = TrainConfig(batch_size=8, max_steps=30, device="cpu", precision="fp32", batching="padded", **chosen)
    losses = steps_of(task, config, ours)[:, 0]
    pairs = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    return losses, log, {name: (a - b).abs().max().item() for (name, a), b in pairs}


def steps_of(task: Any, config: TrainConfig, net: Any = None) -> np.ndarray:
    """Loss and norm of each step."""
    setup = build(task, task.examples()["train"], config, model() if net is None else net)
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    return np.array([[float(record.loss_sum / record.num_items), float(record.grad_norm)] for record in records])


@pytest.mark.parametrize(
    ("name", "smoothing"),
    [
        ("t5", 0.0),
        ("bart", 0.1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("bart", 0.0), ("marian", 0.0), ("pegasus", 0.0), ("t5", 0.1)]
        ),
    ],
)
def test_losses_and_weights_of_seq2seq_trainer(name, smoothing, tmp_path):
    """Thirty steps with dropout off, sources and targets of many lengths: bit for bit, where both add up in the same order."""
    losses, log, gaps = beside_trainer(name, tmp_path, smoothing)
    assert len(log) == len(losses) == 30
    if not smoothing:
        assert losses.tolist() == log and set(gaps.values()) == {0.0}
        return
    np.testing.assert_allclose(losses, log, rtol=1e-6)
    unseen = "k_proj.bias"  # of all keys alike, which no softmax sees: AdamW makes steps of the rounding of what is 0
    assert max(gap for name, gap in gaps.items() if unseen not in name) < 1e-6


@pytest.mark.parametrize("name", list(CONFIGS))
def test_batches_are_the_collators(name):
    """The decoder reads what DataCollatorForSeq2Seq gives it, and padding of one row has no part in another's loss."""
    task, some, net = make_task(8, name), rows(8), model(name).eval()
    data = task.examples()["train"]
    batch = task.collate([data[i] for i in range(8)], Layout())
    given = [tokenizer()(each["source"], text_target=each["target"]) for each in some]
    features = [{key: each[key] for key in ("input_ids", "attention_mask", "labels")} for each in given]
    theirs = DataCollatorForSeq2Seq(tokenizer(), model=net)(features)
    for key in ("input_ids", "attention_mask", "decoder_input_ids"):
        assert torch.equal(batch.inputs[key], theirs[key]), key
    assert torch.equal(batch.targets["labels"], theirs["labels"])
    assert batch.num_items == int((theirs["labels"] != -100).sum())
    assert batch.num_tokens == batch.num_items + int(theirs["attention_mask"].sum()) == int(data.lengths.sum())
    with torch.no_grad():
        whole = task.loss(task.forward(net, batch), batch)
        alone = [task.collate([data[i]], Layout()) for i in range(8)]
        each = sum(task.loss(task.forward(net, one), one) for one in alone)
    assert float(whole) == pytest.approx(float(each), rel=1e-5)


def test_a_model_that_cannot_be_asked_gets_the_start_token_first():
    """Blenderbot and M2M100 move labels on by themselves, and only where they compute the loss."""
    task = make_task()
    labels = torch.tensor([[5, 6, 1], [7, 1, -100]])
    expected = task.decoder_inputs(labels)
    task.skeleton = None
    assert torch.equal(task.decoder_inputs(labels), expected)
    assert expected.tolist() == [[0, 5, 6], [0, 7, 1]]


def test_labels_stay_as_they_are_whatever_the_model_makes_of_them():
    """FSMT writes its padding token into the labels that it is given, which would then be learned."""
    task = make_task(8)
    data = task.examples()["train"]
    expected = task.collate([data[i] for i in range(8)], Layout())
    own = task.skeleton.prepare_decoder_input_ids_from_labels
    changes = lambda labels: own(labels=labels.masked_fill_(labels == -100, 0))  # noqa: E731
    task.skeleton = SimpleNamespace(prepare_decoder_input_ids_from_labels=changes)
    batch = task.collate([data[i] for i in range(8)], Layout())
    assert torch.equal(batch.targets["labels"], expected.targets["labels"]) and (batch.targets["labels"] == -100).any()
    assert batch.num_items == expected.num_items


def test_the_cut_into_micro_batches_changes_nothing():
    whole, *others = [steps_of(make_task(), TrainConfig(batch_size=16 // n, accumulation_steps=n, **QUIET)) for n in (1, 2, 4)]
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-5)


def test_killed_and_resumed_is_bitwise_the_same(tmp_path):
    """With dropout, texts written at each evaluation; killed between checkpoints in the second epoch."""
    config = TrainConfig(batch_size=4, accumulation_steps=2, epochs=2, learning_rate=1e-3, log_steps=2, save_steps=3,
                         eval_steps=4, device="cpu")  # fmt: skip
    whole = train_to(tmp_path / "whole", make_task(30), config, model(dropout=0.1))
    train_to(tmp_path / "cut", make_task(30), config, model(dropout=0.1), until=6)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(30), config, model(dropout=0.1), resume=True))
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


def test_lora_and_frozen_layers(project, tmp_path):
    arguments = [*command(project), "--max-steps", "3", "--learning-rate", "1e-2"]
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, "--lora", *more, "--precision", "fp32", "--output-dir", str(tmp_path / name)]) == 0
    some = [each["source"] for each in rows(10, 3)]
    one, other = ([each["generated"] for each in task.predict(net, some, layout)] for task, net, layout in
                  (open_model(str(tmp_path / name), find, device="cpu") for name in ("adapter", "merged")))  # fmt: skip
    assert one == other
    assert any("lora_A" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    assert run.main([*arguments, "--freeze", "encoder", "--output-dir", str(tmp_path / "frozen")]) == 0
    start, found = (load_file(folder / "model.safetensors") for folder in (project / "model", tmp_path / "frozen"))
    name = "{}.block.0.layer.0.SelfAttention.q.weight"
    assert torch.equal(found[name.format("encoder")], start[name.format("encoder")])
    assert not torch.equal(found[name.format("decoder")], start[name.format("decoder")])


# ------------------------------------------------------------------------------------------------------------ padding


@pytest.mark.parametrize("name", list(CONFIGS))
def test_padding_is_tried_on_a_small_copy(name):
    assert harmless_sides(model(name), None) == (("right", "left") if name == "t5" else ("right",))


class LooksAtPadding(T5ForConditionalGeneration):
    def forward(self, input_ids=None, attention_mask=None, **more):
        return super().forward(input_ids=input_ids, attention_mask=None, **more)


class LooksAhead(T5ForConditionalGeneration):
    """As ProphetNet does, a little."""

    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        outputs.logits = outputs.logits + outputs.logits.mean(1, keepdim=True)
        return outputs


@pytest.mark.parametrize("kind", [LooksAtPadding, LooksAhead])
def test_where_padding_matters_rows_of_one_shape_meet(kind, capsys):
    """In what is read, and in what stands behind a target."""
    layout = choose_layout("padded", kind(CONFIGS["t5"]), None, None, torch.device("cpu"), "fp32")
    assert layout.padding_matters and f"warning: padding changes what {kind.__name__} computes" in capsys.readouterr().err
    task = make_task()
    some = [
        each | {"target": each["target"][4:] if i % 2 and len(each["target"]) > 8 else each["target"]}
        for i, each in enumerate(rows(60, 5))
    ]  # some are two letters shorter, as long together as others
    task.source.given = {"eval": Dataset.from_list(some)}
    data = task.examples()["eval"]
    loader = eval_loader(task, data, layout, TrainConfig(eval_batch_size=8), World(torch.device("cpu")))
    batches = list(loader)
    assert sum(batch.num_examples for batch in batches) == 60 and max(batch.num_examples for batch in batches) > 2
    for batch in batches:
        assert batch.inputs["attention_mask"].all() and (batch.targets["labels"] != -100).all()


def test_packed_batches_are_refused_in_words(project, capsys):
    code, line = fails([*command(project), "--batching", "packed"], capsys)
    assert code == 2 and "T5ForConditionalGeneration has an encoder and a decoder; use padded or bucketed" in line


def test_other_layouts_train(project, tmp_path):
    """Padded to the most that a source, and a target, may have: the loss is the same."""
    arguments = [*command(project), "--max-steps", "1", "--max-length", "20", "--precision", "fp32"]
    for kind in ("bucketed", "max_length", "padded"):
        assert run.main([*arguments, "--batching", kind, "--output-dir", str(tmp_path / kind)]) == 0
    one, other = (json.loads((tmp_path / kind / "run.json").read_text())["metrics"] for kind in ("max_length", "padded"))
    assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)


# -------------------------------------------------------------------------------------------- the finished model's use


def library_texts(folder: Path, sources: list[str], **decoding: Any) -> list[str]:
    """What AutoModelForSeq2SeqLM.generate writes, for each source alone."""
    net, pieces = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in sources:
        ids = net.generate(**pieces(text, return_tensors="pt"), **{"max_new_tokens": 12, "do_sample": False} | decoding)
        found.append(pieces.decode(ids[0], skip_special_tokens=True))
    return found


OTHERS = [pytest.param(kind, beams, marks=pytest.mark.slow) for kind in ("run", *CONFIGS) for beams in (None, 3)]


@pytest.mark.parametrize(("kind", "beams"), [("t5", None), ("bart", 3), *OTHERS])
def test_what_is_written_is_the_librarys(project, tmp_path, kind, beams):
    """Of a finished run, and of models as they come from elsewhere; one by one there, together here."""
    folder = project / "run" if kind == "run" else save_model(tmp_path, kind)
    some = [each["source"] for each in rows(30, 4)]
    changes = {"num_beams": beams, "max_new_tokens": 12}
    task, net, layout = open_model(str(folder), find, device="cpu", task="seq2seq", changes=changes)
    found = [each["generated"] for each in task.predict(net, some, layout)]
    assert found == library_texts(folder, some, num_beams=beams or 1)
    assert len(set(found)) > 1, "not all alike"


def test_the_saved_directory_writes_by_itself_what_predict_writes(project, tmp_path):
    """Its limit and its beams stand in generation_config.json; those of the model that it was made from are replaced."""
    save_model(tmp_path / "model", "bart")
    settings = json.loads((tmp_path / "model/generation_config.json").read_text())
    (tmp_path / "model/generation_config.json").write_text(json.dumps(settings | {"max_length": 3, "length_penalty": 2.0}))
    arguments = command(project)
    arguments[arguments.index("--model") + 1] = str(tmp_path / "model")
    assert run.main([*arguments, "--max-steps", "1", "--num-beams", "2", "--output-dir", str(tmp_path / "run")]) == 0
    some = [each["source"] for each in rows(9, 4)]
    net, pieces = (
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").eval(),
        AutoTokenizer.from_pretrained(tmp_path / "run"),
    )
    assert (net.generation_config.num_beams, net.generation_config.max_new_tokens) == (2, 12)
    assert net.generation_config.length_penalty == 2.0 and net.generation_config.max_length is None
    ids = [net.generate(**pieces(text, return_tensors="pt"))[0] for text in some]
    task, opened, layout = open_model(str(tmp_path / "run"), find, device="cpu")
    assert [each["generated"] for each in task.predict(opened, some, layout)] == pieces.batch_decode(
        ids, skip_special_tokens=True
    )
    assert max(map(len, ids)) > 10


def test_what_a_models_own_settings_ask_for_is_one_text(project, tmp_path, capsys):
    """Several texts, or an object of them, would not belong to their sources; beams without end fill the memory."""
    save_model(tmp_path / "model")
    settings = json.loads((tmp_path / "model/generation_config.json").read_text())
    asked = settings | {"num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(asked))
    some = ["a b c", "d e", "f g"]
    expected = library_texts(tmp_path / "model", some, num_return_sequences=1, return_dict_in_generate=False)
    changes = {"max_new_tokens": 12}
    task, net, layout = open_model(str(tmp_path / "model"), find, device="cpu", task="seq2seq", changes=changes)
    assert [each["generated"] for each in task.predict(net, some, layout)] == expected
    (tmp_path / "model/generation_config.json").write_text(json.dumps(asked | {"num_beams": 10**7}))
    code, line = fails(["predict", "--model", str(tmp_path / "model"), "--task", "seq2seq", "a b"], capsys)
    assert code == 4 and "num_beams is 10000000, and 1000 is the most that is believed" in line


def test_evaluate_is_the_libraries_on_what_the_model_writes(project, capsys):
    some = rows(40, 1)
    targets = [each["target"] for each in some]
    texts = library_texts(project / "run", [each["source"] for each in some])
    use = ["evaluate", "--model", str(project / "run"), "--file", str(project / "eval.jsonl"), "--device", "cpu", "--precision",
           "fp32", "--output", str(project / "f.json"), "--errors", str(project / "errors.csv")]  # fmt: skip
    capsys.readouterr()
    assert run.main([*use, "--eval-batch-size", "7"]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((project / "f.json").read_text())
    scorer = RougeScorer(["rougeL"])
    expected = {
        "eval_rouge_l": np.mean([scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(targets, texts, strict=True)]),
        "eval_bleu": corpus_bleu(texts, [targets]).score,
        "eval_chrf": corpus_chrf(texts, [targets]).score,
        "eval_exact_match": np.mean([a == b for a, b in zip(targets, texts, strict=True)]),
        "eval_perplexity": np.exp(figures["eval_loss"]),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    lines = list(csv.DictReader((project / "errors.csv").open()))
    wrong = {i + 1 for i in range(40) if texts[i] != targets[i]}
    assert {int(line["row"]) for line in lines} == wrong and f"{len(wrong)} wrong rows written to" in shown
    near = [float(line["chrf"]) for line in lines]
    assert near == sorted(near) and "otherwise, chrF" in shown
    for line in lines:
        number = int(line["row"]) - 1
        assert (line["source"], line["target"], line["prediction"]) == (*some[number].values(), texts[number])
    again = json.loads((project / "run/run.json").read_text())["metrics"]
    assert run.main([*use[:3], "--device", "cpu", "--output", str(project / "own.json")]) == 0
    assert json.loads((project / "own.json").read_text())["eval_chrf"] == pytest.approx(again["eval_chrf"])


def test_predict_and_generate_in_all_their_ways(project, tmp_path, capsys):
    sources = [each["source"] for each in rows(3, 6)]
    texts = library_texts(project / "run", sources)
    use = ["--model", str(project / "run"), "--device", "cpu"]
    capsys.readouterr()
    assert run.main(["predict", *use, *sources]) == 0
    assert capsys.readouterr().out == "".join(f"{text}\t{source}\n" for text, source in zip(texts, sources, strict=True))
    assert run.main(["generate", *use, *sources]) == 0
    assert capsys.readouterr().out == "\n---\n".join(texts) + "\n"
    assert run.main(["generate", *use, "--stream", sources[0]]) == 0
    assert capsys.readouterr().out.strip() == texts[0]
    table = save_rows(tmp_path / "in.jsonl", [{"id": i, "source": text, "generated": "x"} for i, text in enumerate(sources)])
    assert run.main(["predict", *use, "--input", table, "--output", str(tmp_path / "out.csv"), "--num-beams", "3"]) == 0
    lines = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [line["predicted_generated"] for line in lines] == library_texts(project / "run", sources, num_beams=3)
    (tmp_path / "in.txt").write_text("\n".join(sources) + "\n")
    more = ["--max-new-tokens", "4", "--num-beams", "2", "--num-return-sequences", "2", "--no-repeat-ngram-size", "2"]
    assert run.main(["generate", *use, "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "o.jsonl"), *more]) == 0
    found = [json.loads(line)["generated"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    settings = {"max_new_tokens": 4, "num_beams": 2, "no_repeat_ngram_size": 2}
    assert [texts[0] for texts in found] == library_texts(project / "run", sources, **settings) and {len(t) for t in found} == {
        2
    }


def test_which_task_generate_takes_is_not_guessed(project, tmp_path, capsys):
    """A run says it; of a model from elsewhere with an encoder and a decoder the user does."""
    use = ["--device", "cpu", "--max-new-tokens", "3", "a b"]
    code, line = fails(["generate", "--model", str(project / "model"), *use], capsys)
    assert code == 4 and line.endswith("is a t5 model, and no causal language model (--task seq2seq)")
    assert run.main(["generate", "--model", str(project / "model"), "--task", "seq2seq", *use]) == 0
    save_model(tmp_path / "bart", "bart")
    code, line = fails(["generate", "--model", str(tmp_path / "bart"), *use], capsys)
    assert code == 4 and line.endswith("it lacks lm_head.weight (--task seq2seq)")
    settings = type(CONFIGS["bart"])(**CONFIGS["bart"].to_dict() | {"tie_word_embeddings": False})
    AutoModelForSeq2SeqLM.from_config(settings).save_pretrained(tmp_path / "bart")  # its decoder alone could be a model, too
    code, line = fails(["generate", "--model", str(tmp_path / "bart"), *use], capsys)
    assert code == 2 and "has an encoder and a decoder: --task seq2seq, or --task clm for its decoder alone" in line
    for task in ("seq2seq", "clm"):
        assert run.main(["generate", "--model", str(tmp_path / "bart"), "--task", task, *use]) == 0
    code, line = fails(["generate", "--model", str(project / "model"), "--task", "mlm", *use], capsys)
    assert code == 2 and "this command needs clm or seq2seq" in line


def test_a_prefix_is_learned_with_and_written_with(project, tmp_path, capsys):
    plain = [*command(project), "--max-steps", "2"]
    assert run.main([*plain, "--prefix", "a : ", "--output-dir", str(tmp_path / "prefix")]) == 0
    typed = [{"source": f"a : {each['source']}", "target": each["target"]} for each in rows(120, 0)]
    save_rows(tmp_path / "typed.jsonl", typed)
    save_rows(tmp_path / "typed-eval.jsonl", [each | {"source": f"a : {each['source']}"} for each in rows(40, 1)])
    arguments = [*command(project, tmp_path / "typed.jsonl", tmp_path / "typed-eval.jsonl"), "--max-steps", "2"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "typed")]) == 0
    assert (tmp_path / "prefix/model.safetensors").read_bytes() == (tmp_path / "typed/model.safetensors").read_bytes()
    said = [[each["generated"] for each in task.predict(net, texts, layout)] for (task, net, layout), texts in (
        (open_model(str(tmp_path / "prefix"), find, device="cpu"), ["b c d"]),
        (open_model(str(tmp_path / "typed"), find, device="cpu"), ["a : b c d"]),
        (open_model(str(tmp_path / "prefix"), find, device="cpu", changes={"prefix": "c : "}), ["b c d"]),
        (open_model(str(tmp_path / "typed"), find, device="cpu"), ["c : b c d"]))]  # fmt: skip
    assert said[0] == said[1] and said[2] == said[3]
    settings = json.loads((project / "model/config.json").read_text())
    known = settings | {"task_specific_params": {"summarization": {"prefix": "summarize: "}}}
    save_model(tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps(known))
    plain[plain.index("--model") + 1] = str(tmp_path / "model")
    capsys.readouterr()
    assert run.main([*plain, "--output-dir", str(tmp_path / "a")]) == 0
    assert "trained with a text before each source, such as 'summarize: ': --prefix" in capsys.readouterr().err
    assert run.main([*plain, "--prefix", "a", "--output-dir", str(tmp_path / "b")]) == 0
    assert "--prefix" not in capsys.readouterr().err


def test_a_finished_model_is_trained_on(project, tmp_path):
    arguments = command(project)
    arguments[arguments.index("--model") + 1] = str(project / "run")
    assert run.main([*arguments, "--max-steps", "2", "--output-dir", str(tmp_path / "more")]) == 0
    first, second = (
        json.loads((folder / "run.json").read_text())["metrics"]["eval_loss"] for folder in (project / "run", tmp_path / "more")
    )
    assert second == pytest.approx(first, rel=0.2)


# --------------------------------------------------------------------------------------------------------------- rows


def test_what_is_too_long_is_cut_and_counted(project, tmp_path, capsys):
    some = [*rows(6, 0), {"source": " ".join("abcd" * 30), "target": " ".join("efgh" * 5)}]
    save_rows(tmp_path / "t.jsonl", some)
    arguments = [*command(project, tmp_path / "t.jsonl"), "--max-steps", "1", "--output-dir", str(tmp_path / "r")]
    assert run.main(arguments) == 0
    said = capsys.readouterr().err
    assert "train data: 1 of 7 texts cut to 64 tokens" in said
    assert "train data: 1 of 7 targets cut to 12 tokens (--max-target-length)" in said
    assert run.main(["predict", "--model", str(tmp_path / "r"), "--device", "cpu", " ".join("abcd" * 30), "a b"]) == 0
    assert "1 of 2 texts cut to 64 tokens" in capsys.readouterr().err


def test_lengths_are_those_of_the_model(tmp_path):
    """T5 counts distances and takes any length; BART has as many positions as it has, on each side."""
    assert make_task(max_length=5000, max_target_length=3000).max_length == 5000
    long = make_task(name="bart", max_length=65)
    with pytest.raises(UsageError, match="--max-length 65: this model takes at most 64 tokens"):
        long.max_length  # noqa: B018
    for name in ("max_target_length", "max_new_tokens"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} 65: this model writes at most 64 tokens"):
            make_task(name="bart", **{"max_new_tokens": None, name: 65}).decoding  # noqa: B018
    with pytest.raises(UsageError, match="--max-target-length 1: 1 tokens of each target are special ones"):
        make_task(max_target_length=1).examples()
    assert make_task(name="bart", max_new_tokens=64).decoding["max_new_tokens"] == 64
    assert make_task(max_new_tokens=None, max_target_length=9).decoding["max_new_tokens"] == 9


def test_columns_of_others(project, tmp_path, capsys):
    nested = [{"translation": {"en": each["source"], "de": each["target"]}} for each in rows(120, 0)]
    save_rows(tmp_path / "n.jsonl", nested)
    save_rows(tmp_path / "e.jsonl", [{"translation": {"en": each["source"], "de": each["target"]}} for each in rows(40, 1)])
    arguments = [*command(project, tmp_path / "n.jsonl", tmp_path / "e.jsonl"), "--max-steps", "2"]
    code, line = fails([*arguments, "--output-dir", str(tmp_path / "x")], capsys)
    way = "--source-column translation.en --target-column translation.de"
    assert code == 3 and line.endswith(f"another column: {way}")
    assert run.main([*arguments, *way.split(), "--output-dir", str(tmp_path / "nested")]) == 0
    assert run.main([*command(project), "--max-steps", "2", "--output-dir", str(tmp_path / "flat")]) == 0
    assert (tmp_path / "nested/model.safetensors").read_bytes() == (tmp_path / "flat/model.safetensors").read_bytes()
    use = ["--model", str(tmp_path / "nested"), "--device", "cpu"]
    assert run.main(["evaluate", *use, "--file", str(tmp_path / "e.jsonl")]) == 0
    assert run.main(["predict", *use, "--input", str(tmp_path / "e.jsonl"), "--output", str(tmp_path / "o.jsonl")]) == 0
    assert "generated" in json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    save_rows(tmp_path / "h.jsonl", [{"article": each["source"], "highlights": each["target"]} for each in rows(9, 0)])
    arguments = [
        *command(project, tmp_path / "h.jsonl", tmp_path / "h.jsonl"),
        "--max-steps",
        "1",
        "--output-dir",
        str(tmp_path / "h"),
    ]
    code, line = fails(arguments, capsys)
    way = "--source-column article --target-column highlights"
    assert code == 3 and line.endswith(f"another column: {way}")
    assert run.main([*arguments, *way.split()]) == 0


@pytest.mark.parametrize(
    ("some", "more", "words"),
    [
        ([{"source": "a", "target": ""}], "", "row 1: the target is blank: remove the row or fill it"),
        ([{"source": "a", "target": " \n"}], "", "row 1: the target is blank"),
        ([{"source": "a", "target": None}], "", "column 'target', "),
        ([{"source": None, "target": "a"}], "", "column 'source', "),
        ([{"source": 3, "target": "a"}], "", "a text is needed, found 3"),
        ([{"source": "a"}], "", "has no column 'target'"),
        ([{"t": {"en": "a"}}], "--source-column t.en --target-column t.de", "row 1: 't' must be an object with 'de', found {'en'"),
        ([{"t": "a"}], "--source-column t.en --target-column t.de", "row 1: 't' must be an object with 'en', found 'a'"),
    ],
)  # fmt: skip
def test_faults_of_the_data_are_one_line(project, tmp_path, capsys, some, more, words):
    save_rows(tmp_path / "t.jsonl", some)
    arguments = [*command(project, *[tmp_path / "t.jsonl"] * 2), *more.split(), "--output-dir", str(tmp_path / "r")]
    code, line = fails(arguments, capsys)
    assert code == 3 and words in line


@pytest.mark.parametrize("more", [["--target-column", "a", "--source-column", "a"], ["--source-column", "target"]])
def test_one_column_is_not_both(project, tmp_path, capsys, more):
    code, line = fails([*command(project), "--output-dir", str(tmp_path / "r"), *more], capsys)
    assert code == 2 and "source and target must be different columns" in line


# -------------------------------------------------------------------------------------------------------------- model


class Changes(PreTrainedTokenizerFast):
    """Other ids for what is written, as Marian's two vocabularies: all letters are the next one."""

    is_target = False

    def _switch_to_target_mode(self):
        self.is_target = True

    def _switch_to_input_mode(self):
        self.is_target = False

    def _encode_plus(self, *args, **kwargs):
        found = super()._encode_plus(*args, **kwargs)
        if self.is_target:
            rows = found["input_ids"] if isinstance(found["input_ids"][0], list) else [found["input_ids"]]
            for ids in rows:
                ids[:] = [i + 1 if 3 <= i < 10 else i for i in ids]
        return found


def test_targets_have_tokens_of_their_own_and_are_never_taken_for_sources():
    """The same texts on both sides, twice: the second time they come out of the cache."""
    for _ in range(2):
        task = make_task(6)
        task._tokenizer = tokenizer(Changes)
        source, target = task.examples()["train"][0]["texts"]
        text = row(0, 0)
        assert source["input_ids"].tolist() == tokenizer()(text["source"])["input_ids"]
        assert (
            target["input_ids"].tolist()
            == tokenizer(Changes)(text_target=text["target"])["input_ids"]
            != tokenizer()(text["target"])["input_ids"]
        )
        task.source.given = {"train": task.source.given["train"].rename_columns({"source": "target", "target": "source"})}
        swapped, _ = task.examples()["train"][0]["texts"]
        assert swapped["input_ids"].tolist() == tokenizer()(text["target"])["input_ids"]


def test_a_model_that_could_not_begin_or_end_is_refused(project, tmp_path):
    task = make_task()
    task._tokenizer = tokenizer(end="")
    with pytest.raises(ModelError, match="puts no end token behind a target, so what is learned from it never ends"):
        task.examples()
    settings = json.loads((project / "model/config.json").read_text())
    del settings["decoder_start_token_id"]
    save_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    task, *_ = open_model(str(tmp_path), find, device="cpu", task="seq2seq", files={"eval": str(project / "eval.jsonl")})
    with pytest.raises(ModelError, match=r"its config\.json does not say decoder_start_token_id, with which a target starts"):
        task.examples()


def test_a_tokenizer_with_the_names_of_two_languages_is_told_none():
    """FSMT's, whose model knows them; those that are told languages: test_languages.py."""
    task = make_task()
    task._tokenizer.src_lang = "en"
    task.examples()
    assert task.languages is None


def test_a_model_of_another_kind_is_refused(tmp_path, project, capsys):
    from bench.toys import tiny

    tiny.bert().save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    arguments = command(project)
    arguments[arguments.index("--model") + 1] = str(tmp_path / "bert")
    code, line = fails([*arguments, "--output-dir", str(tmp_path / "r")], capsys)
    assert code == 4 and "(bert) has no encoder with a decoder, and is no model that writes one text from another" in line


def test_a_setting_that_the_task_lacks_is_refused(project, capsys):
    code, line = fails(["predict", "--model", str(project / "run"), "--n-best", "3", "a b"], capsys)
    assert code == 2 and line.endswith("--n-best is no setting of --task seq2seq, which this model is of: leave it out")


def test_targets_in_another_script_are_said_to_have_no_rouge(capsys):
    say_what_rouge_misses(["это дом", "a house"], "eval data")
    assert "eval data: rouge_l knows a to z and digits alone, and 1 of 2 targets have none: see chrf" in capsys.readouterr().err
    metrics = WritingMetrics(lambda *_: [], ["это дом", "a house"], {0: "это дом", 1: "a house"})
    metrics.of_tokens.nats.update(1.0)
    metrics.of_tokens.hits.update(1.0)
    figures = metrics.compute()
    assert (figures["rouge_l"], figures["exact_match"]) == (0.5, 1.0) and figures["chrf"] == pytest.approx(100)


# ------------------------------------------------------------------------------------------------------------- sample


def test_the_sample_is_a_function_of_its_seed():
    some = passive.sentences(300, 0)
    assert some == passive.sentences(300, 0) and some[:5] == passive.sentences(5, 0) != passive.sentences(5, 1)
    assert not {each["source"] for each in passive.sentences(500, 1)} & {each["source"] for each in passive.sentences(16000, 0)}
    assert not any(each["source"] == each["target"] for each in some), "to copy is never right"
    for each in some:
        assert each["target"].count(" by ") == each["source"].count(", and ") + 1
