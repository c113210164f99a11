"""--task ner: words and tags as people have them, seqeval's figures, run_ner's losses, the pipeline's entities."""

from __future__ import annotations

import copy
import csv
import json
import subprocess
import warnings

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.conll_rows import read_conll
from engine.data.files import read_table
from engine.data.sources import Source, SourceConfig
from engine.distributed.world import World
from engine.errors import DataError, ModelError
from engine.finished import open_model
from engine.loop import train_step
from tasks import find
from tasks.options import TaggingOptions
from tasks.samples import entities
from tasks.tagging.predicted import Text, add_text, prediction
from tasks.tagging.tags import ThingMetrics, kinds_of, things
from tasks.tagging.task import Tagging
from tasks.tagging.words import Encoded, cuts, encode, from_spans, sentence, tagged_words
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, assert_sigkill_changes_nothing, train_to
from tests.toys.ranks import assert_two_ranks_are_one

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,&", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]  # fmt: skip
TAGS = ("O", "B-person", "I-person", "B-place", "I-place")


def tokenizer(length: int = 64) -> PreTrainedTokenizerFast:
    """WordPiece of single letters: every word is cut into several tokens."""
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length, **dict(zip(names, PIECES, strict=False)))


def config(**more) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=len(PIECES), max_position_embeddings=64, **sizes, **more)


def save_model(folder) -> None:
    torch.manual_seed(0)
    BertForTokenClassification(config()).bert.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def rows_of(number: int, seed: int) -> list[dict[str, list[str]]]:
    """Words of letters; one that begins with z is a person, one with q a place, and the next belongs to it if it does, too."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        words = ["".join(generator.choice(list("abcqz"), generator.integers(1, 5))) for _ in range(generator.integers(1, 9))]
        tags = [{"z": "person", "q": "place"}.get(word[0], "") for word in words]
        before = ["", *tags]
        named = [(t and ("I-" if t == b else "B-") + t) or "O" for t, b in zip(tags, before, strict=False)]
        found.append({"tokens": words, "tags": named})
    return found


def save_rows(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model without a head, rows, and a finished run over them."""
    folder = tmp_path_factory.mktemp("ner")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows_of(120, 0))
    save_rows(folder / "eval.jsonl", rows_of(40, 1))
    assert run.main([*command(folder), "--output-dir", str(folder / "run"), "--epochs", "5", "--learning-rate", "3e-3"]) == 0
    return folder


def command(folder, train="train.jsonl", evaluation="eval.jsonl") -> list[str]:
    return ["--task", "ner", "--model", str(folder / "model"), "--train-file", str(folder / train), "--eval-file",
            str(folder / evaluation), "--device", "cpu", "--batch-size", "8"]  # fmt: skip


def make_task(folder) -> Tagging:
    files = {"train_file": str(folder / "train.jsonl"), "eval_file": str(folder / "eval.jsonl")}
    return Tagging(TaggingOptions(), Source(SourceConfig(**files, model=str(folder / "model"))))


# --------------------------------------------------------------------------------------------------- words and tags


def test_spans_become_words_with_tags_cut_where_a_span_begins_or_ends():
    text = "Dr. Ada-Maria flew to São Paulo, Lima's 2nd."
    at = {name: text.index(name) for name in ("Ada", "São Paulo", "Lima")}
    spans = [{"start": at[name], "end": at[name] + len(name), "label": label} for name, label in
             (("Lima", "place"), ("São Paulo", "place"), ("Ada", "person"))]  # fmt: skip
    words, tags = from_spans(text, spans)
    assert words == ["Dr", ".", "Ada", "-", "Maria", "flew", "to", "São", "Paulo", ",", "Lima", "'", "s", "2nd", "."]
    assert [w for w, tag in zip(words, tags, strict=True) if tag != "O"] == ["Ada", "São", "Paulo", "Lima"]
    assert tags[7:9] == ["B-place", "I-place"] and tags[10] == "B-place"
    assert from_spans("b2b", [{"start": 1, "end": 2, "label": "n"}]) == (["b", "2", "b"], ["O", "B-n", "O"])


@pytest.mark.parametrize(
    ("text", "tags", "words"),
    [
        (["a", "b"], ["O"], "2 words and 1 tags"),
        (["a", 3], ["O", "O"], "a word is a text, found 3"),
        (["a"], [None], "a tag is a name, or a number from 0, found None"),
        (["a"], [True], "found True"),
        (["a"], [1], "nothing names it: --label-names"),
        ("a b", [{"start": 0, "end": 2, "tag": "x"}], "a span is {start, end, label}"),
        ("a b", [{"start": False, "end": True, "label": "x"}], "a span is {start, end, label}"),
        ("a b", [{"start": 0, "end": 1, "label": " "}], "a span is {start, end, label}"),
        ("a b", [{"start": 1, "end": 2, "label": "x"}], "no word from 1 to 2"),
        ("a b", [{"start": 2, "end": 9, "label": "x"}], "no word from 2 to 9 of a text of 3"),
        ("a b", [{"start": 0, "end": 3, "label": "x"}, {"start": 2, "end": 3, "label": "y"}], "spans overlap at 2 (x and y)"),
        ("['a', 'b']", "['O', 'O']", "lists are not kept in a CSV file"),
        (7, ["O"], "words and tags are two lists"),
    ],
)
def test_a_row_that_is_no_tagged_sentence_is_refused(text, tags, words):
    with pytest.raises(ValueError) as error:
        sentence(text, tags, None)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "start", "end", "is_cut"),
    [("Ada flew", 0, 2, True), ("Ada flew", 1, 3, True), ("Ada flew", 0, 3, False), ("Ada flew", 4, 8, False),
     ("\u0410\u0434\u0430", 0, 2, True), ("Ada's", 0, 3, False), ("\u6771\u4eac\u306b", 0, 2, False), ("B2B", 1, 2, True)],
)  # fmt: skip
def test_spans_that_cut_words_are_told_of(capsys, text, start, end, is_cut):
    """Of data whose end is that of the last character every name would lose it without a word."""
    rows = [("a b", [{"start": 0, "end": 1, "label": "x"}]), (text, [{"start": start, "end": end, "label": "x"}])]
    table = Dataset.from_dict({"text": [row[0] for row in rows], "spans": [row[1] for row in rows]})
    assert len(tagged_words(table, "text", "spans", "train data", None)) == 2
    said = "train data: in 1 of 2 rows a span begins or ends within a word (the first: row 2)"
    assert (said in capsys.readouterr().err) == is_cut


def test_tags_that_look_alike_are_told_of_and_words_without_any_token_refused(project, tmp_path, capsys):
    rows = [
        {"tokens": ["ab", "cz"], "tags": ["B-person", "I-person "]},
        {"tokens": ["ab", "cz"], "tags": ["B-person", "I-person"]},
    ]
    save_rows(tmp_path / "train.jsonl", rows * 4)
    arguments = [*command(project)[:4], "--train-file", str(tmp_path / "train.jsonl"), "--device", "cpu", "--max-steps", "1"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "run")]) == 0
    assert "warning: the tags 'I-person' and 'I-person ' look alike, and are two classes" in capsys.readouterr().err
    save_rows(tmp_path / "train.jsonl", [{"tokens": ["", ""], "tags": ["B-person", "O"]}] * 8)
    code, line = fails([*arguments, "--output-dir", str(tmp_path / "none")], capsys)
    assert code == 3 and "train data: no word has a token" in line


def test_ids_are_the_names_of_their_class_label_whatever_these_look_like():
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["1", "0", "B-x"]))})
    table = Dataset.from_dict({"tokens": [["a", "b", "c"]], "tags": [[0, 1, 2]]}, features=features)
    assert tagged_words(table, "tokens", "tags", "here", ["1", "0", "B-x"]) == [(["a", "b", "c"], ["1", "0", "B-x"])]
    with pytest.raises(DataError, match="row 1: the tag 2 is none of the 2 that have names"):
        tagged_words(table, "tokens", "tags", "here", ["1", "0"])
    assert sentence("a b", "O B-x", None) == (["a", "b"], ["O", "B-x"])  # a CSV file


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 8))
def test_a_long_sentence_is_cut_between_words_and_nothing_is_lost(sizes, room):
    word_ids = [None, *(word for word, size in enumerate(sizes) for _ in range(size)), None]
    ranges = list(cuts(word_ids, len(sizes), room + 2))
    assert [a for a, _ in ranges] == [0, *(b for _, b in ranges[:-1])] and ranges[-1][1] == len(sizes)
    for a, b in ranges:
        assert sum(sizes[a:b]) <= room or sum(size > 0 for size in sizes[a:b]) == 1


def test_every_word_has_its_first_token_in_one_row_however_long_the_sentence():
    words = ["ab", "c", "\u200b", "q" * 40, "zz", "&"] * 9
    for length in (16, 64, 10**6):
        found = encode([words, ["a"]], tokenizer(), length, "here")
        assert all(len(ids) <= length for ids in found.ids)
        numbers = [int(n) for row, s in zip(found.words, found.sentence, strict=True) if s == 0 for n in row[row >= 0]]
        assert numbers == [i for i, word in enumerate(words) if word != "\u200b"] or numbers == list(range(len(words)))
        first = [
            PIECES[int(ids[at])] for ids, row in zip(found.ids, found.words, strict=True) for at in np.flatnonzero(row >= 0)
        ]
        assert all(piece == "[UNK]" or not piece.startswith("##") for piece in first)


def test_a_tokenizer_that_does_not_know_its_words_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="tags need a fast tokenizer"):
        encode([["a"]], Slow(), 8, "here")


def test_conll_files(tmp_path):
    text = "-DOCSTART- -X- O\n\n# text = EU rejects\nEU NNP B-ORG\r\nrejects VB O\n\n\n# end\n"
    (tmp_path / "a.conll").write_text(text)
    [piece] = read_conll(tmp_path / "a.conll", None, text.splitlines(keepends=True))
    assert piece == {"tokens": [["EU", "rejects"]], "tags": [["B-ORG", "O"]]}
    [piece] = read_conll(tmp_path / "b", None, ["# O\n", "New York\tB-x\n", "#\tO\n", "\n", "# O\n", "#\tO\n"])
    assert piece == {"tokens": [["New York", "#"], ["#"]], "tags": [["B-x", "O"], ["O"]]}
    for lines, words in (
        (["EU B-ORG\n", "rejects\n"], "line 2: 2 columns"),
        (["EU\n"], "line 1: a word and its tag"),
        (["a\t\n"], "line 1"),
        (["# O\n", "EU B-ORG\n"], "line 1: '# O' may be a comment, or the word '#' and its tag"),
        (["EU B-ORG\n", "\n", "# O\n", "a O\n"], "line 3: '# O' may be a comment"),
    ):
        with pytest.raises(DataError, match=words):
            list(read_conll(tmp_path / "b", None, lines))
    many = list(read_conll(tmp_path / "b", None, (line for _ in range(2500) for line in ("a O\n", "\n"))))
    assert [len(piece["tokens"]) for piece in many] == [1000, 1000, 500]


def test_words_that_are_numbers_of_words_are_refused_with_the_way_in(tmp_path):
    """The columns of CoNLL-U are number, word, lemma, part of speech ...; read as they stand, a tagger of 1, 2, 3 was trained."""
    path = tmp_path / "a b.conll"
    rows = [("1-2", "zum", "_", "_", "_"), ("1", "zu", "zu", "ADP", "_"), ("2", "dem", "der", "DET", "SpaceAfter=No")]
    text = "# sent_id = 1\n" + "".join("\t".join(row) + "\n" for row in rows)
    path.write_text(f"{text}\n1\tEin\tein\tDET\t_\n")
    with pytest.raises(DataError, match="its first column numbers the words, as CoNLL-U does, and which of its 5") as error:
        read_table(path)
    subprocess.run(str(error.value).partition("(")[2].removesuffix(")"), shell=True, check=True, cwd=tmp_path)
    assert read_table(tmp_path / "words.conll")["tokens"] == [["zum", "zu", "dem"], ["Ein"]]
    path.write_text("1 CD B-x\n2 CD I-x\n\n2 CD O\n")
    assert read_table(path)["tokens"] == [["1", "2"], ["2"]], "numbers that are not those of the words"


# ---------------------------------------------------------------------------------------------------------- figures


SENTENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=7), min_size=1, max_size=6
)


@settings(deadline=None)
@given(SENTENCES, st.integers(0, 6))
def test_figures_are_those_of_seqeval_however_the_rows_are_cut(rows, at):
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    real, found = ([[TAGS[TAGS.index(pair[side])] for pair in row] for row in rows] for side in (0, 1))
    halves = []
    for part in (rows[:at], rows[at:]):
        halves.append(ThingMetrics(TAGS, kinds_of(TAGS)))
        for row in part:
            halves[-1].count(*(torch.tensor([TAGS.index(pair[side]) for pair in row]) for side in (0, 1)))

    class Two(World):
        def all_reduce(self, tensor):
            other = halves[1]
            counts = [[c[k] for k in other.kinds] for c in (other.right, other.found, other.real)]
            return tensor + torch.tensor(counts if tensor.dim() == 2 else [other.words, other.right_words])

    halves[0].sync(Two(torch.device("cpu")))
    figures = halves[0].compute()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {"f1": f1_score(real, found), "precision": precision_score(real, found), "recall": recall_score(real, found),
                    "accuracy": accuracy_score(real, found)}  # fmt: skip
    if not any(tag != "O" for row in (*real, *found) for tag in row):  # seqeval says 0: nothing could be found, and nothing was
        expected |= dict.fromkeys(("f1", "precision", "recall"), float("nan"))
    assert figures == pytest.approx(expected, nan_ok=True)


def test_other_ways_to_mark_a_name():
    assert things(["B-a", "L-a", "U-b", "O"]) == things(["B-a", "E-a", "S-b", "O"]) == [("a", 0, 1), ("b", 2, 2)]
    assert things(["I-a", "I-a", "I-b"]) == [("a", 0, 1), ("b", 2, 2)], "as conlleval reads it"
    assert kinds_of(["NOUN", "VERB", "O"]) is None and kinds_of(["O", "U-b", "B-a-c"]) == ["a-c", "b"]
    with pytest.raises(DataError, match="the tag 'MISC' is no part of a name, as 'B-a' is"):
        kinds_of(["O", "B-a", "MISC"])


# --------------------------------------------------------------------------------------------------------- training


def run_ners_row(row: dict[str, list[str]], names: tuple[str, ...]) -> dict[str, list[int]]:
    """Its recipe: the first token of a word has the tag, and -100 stands at the others and at the special tokens."""
    encoding = tokenizer()(row["tokens"], is_split_into_words=True, truncation=True)
    words = encoding.word_ids()
    labels = [
        -100 if word is None or word == before else names.index(row["tags"][word])
        for word, before in zip(words, [None, *words], strict=False)
    ]
    return {"input_ids": encoding["input_ids"], "attention_mask": encoding["attention_mask"], "labels": labels}


def test_run_ners_losses_and_weights(project, tmp_path):
    """Its rows, DataCollatorForTokenClassification and Trainer beside ours, thirty steps with dropout off."""
    task = make_task(project)
    rows = task.examples()["train"]
    ours = without_dropout(len(task.names))
    theirs = copy.deepcopy(ours)
    chosen = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5}
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, **chosen,
    )  # fmt: skip
    table = Dataset.from_list([run_ners_row(row, task.names) for row in rows_of(120, 0)])
    assert all(rows[i][name].tolist() == table[i][name] for i in range(120) for name in ("input_ids", "labels"))
    trainer = Trainer(theirs, arguments, train_dataset=table, data_collator=DataCollatorForTokenClassification(tokenizer()))
    trainer.train()
    log = [line["loss"] for line in trainer.state.log_history if "grad_norm" in line]
    losses = steps_of(
        task, TrainConfig(batch_size=8, epochs=2, device="cpu", precision="fp32", batching="padded", **chosen), ours
    )
    assert len(log) == len(losses) == 30
    np.testing.assert_allclose(losses[:, 0], log, rtol=1e-6)
    gaps = [(a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert max(gaps) < 1e-6


def without_dropout(num_labels: int = len(TAGS)) -> BertForTokenClassification:
    torch.manual_seed(1)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForTokenClassification(config(num_labels=num_labels, **still))


def steps_of(task: Tagging, chosen: TrainConfig, model: BertForTokenClassification) -> np.ndarray:
    """Loss and norm of each step."""
    setup = build(task, task.examples()["train"], chosen, model)
    assert setup.layout.kind == chosen.batching
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, chosen, setup.world) for _, batches in setup.data.steps()]
    return np.array([[float(record.loss_sum / record.num_items), float(record.grad_norm)] for record in records])


def test_the_cut_into_micro_batches_and_packing_change_nothing(project):
    """16 sentences of different numbers of words as 1, 2 or 4 micro-batches, the last step short; packed and padded."""
    quiet = {"epochs": 1, "learning_rate": 2e-5, "device": "cpu", "precision": "fp32"}
    whole, *others = [
        steps_of(
            make_task(project),
            TrainConfig(batch_size=16 // n, accumulation_steps=n, batching=batching, **quiet),
            without_dropout(),
        )
        for batching in ("padded", "packed")
        for n in (1, 2, 4)
    ]
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-5)


def test_lora_and_frozen_layers(project, tmp_path):
    """The head is trained in full, and an adapter tags as the model that it is merged into."""
    arguments = [*command(project), "--max-steps", "3", "--learning-rate", "1e-2"]
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, "--lora", *more, "--precision", "fp32", "--output-dir", str(tmp_path / name)]) == 0
    some = [row["tokens"] for row in rows_of(20, 3)]
    one, other = (list(task.predict(net, some, layout)) for task, net, layout in
                  (open_model(str(tmp_path / name), find, device="cpu") for name in ("adapter", "merged")))  # fmt: skip
    for mine, its in zip(one, other, strict=True):
        assert mine["tags"] == its["tags"] and mine["scores"] == pytest.approx(its["scores"], abs=1e-5)
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert any("classifier" in name for name in saved) and any("lora_A" in name for name in saved)
    assert run.main([*arguments, "--freeze", "bert.embeddings", "--output-dir", str(tmp_path / "frozen")]) == 0
    start, found = (load_file(folder / "model.safetensors") for folder in (project / "model", tmp_path / "frozen"))
    assert torch.equal(found["bert.embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])
    assert not torch.equal(found["bert.encoder.layer.0.output.dense.weight"], start["encoder.layer.0.output.dense.weight"])


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_resume_is_bitwise(project, tmp_path, batching):
    """With dropout, and an evaluation in between."""
    chosen = TrainConfig(
        batch_size=8, epochs=2, learning_rate=1e-3, save_steps=4, eval_steps=3, device="cpu", batching=batching
    )
    whole = train_to(tmp_path / "whole", make_task(project), chosen)
    train_to(tmp_path / "cut", make_task(project), chosen, until=10)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(project), chosen, resume=True))


@pytest.mark.slow  # four processes
def test_a_sigkill_changes_nothing(project, tmp_path):
    more = ["--epochs", "3", "--save-steps", "5", "--log-steps", "1", "--learning-rate", "1e-3"]
    assert_sigkill_changes_nothing([*command(project), *more], tmp_path, at_step=20, last=45)


@pytest.mark.distributed
def test_two_ranks_are_one(project, tmp_path):
    """Their words, and so their items, differ in number; the last micro-batch of 120 rows has one row, and one rank none."""
    assert_two_ranks_are_one(tmp_path, lambda: make_task(project), without_dropout)


def test_the_run_learns_and_its_figures_are_seqevals_on_the_pipelines_own_output(project, capsys):
    from seqeval.metrics import f1_score

    document = json.loads((project / "run/run.json").read_text())
    assert document["metrics"]["eval_f1"] > 0.6 and document["batching"] == "packed"
    rows = [json.loads(line) for line in (project / "eval.jsonl").read_text().splitlines()]
    tag = pipeline("token-classification", model=str(project / "run"), device="cpu", aggregation_strategy="first")
    predicted = []
    for row in rows:
        found = ["O"] * len(row["tokens"])
        starts = np.cumsum([0, *(len(word) + 1 for word in row["tokens"])]).tolist()
        for entity in tag(" ".join(row["tokens"])):
            first, last = starts.index(entity["start"]), starts.index(entity["end"] + 1) - 1
            found[first : last + 1] = [f"B-{entity['entity_group']}", *[f"I-{entity['entity_group']}"] * (last - first)]
        predicted.append(found)
    expected = f1_score([row["tags"] for row in rows], predicted)
    assert document["metrics"]["eval_f1"] == pytest.approx(expected, abs=1e-6)
    capsys.readouterr()
    arguments = ["evaluate", "--model", str(project / "run"), "--file", str(project / "eval.jsonl"), "--device", "cpu"]
    assert run.main([*arguments, "--errors", str(project / "errors.csv")]) == 0
    shown = capsys.readouterr().out
    assert f"eval_f1                      = {expected:.4f}" in shown and "  person" in shown
    wrong = list(csv.DictReader((project / "errors.csv").read_text().splitlines()))
    assert len(wrong) == sum(
        a != b for row, p in zip(rows, predicted, strict=True) for a, b in zip(row["tags"], p, strict=True)
    )
    for row in wrong:
        assert rows[int(row["row"]) - 1]["tags"][int(row["word"]) - 1] == row["tag"]


def test_predict_gives_the_entities_of_the_pipeline(project, tmp_path):
    texts = ["zab, qq zz & abc za.", "", "a b c", "z" * 20 + " qa ?"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = ["predict", "--model", str(project / "run"), "--input", str(tmp_path / "in.jsonl"), "--device", "cpu"]
    assert run.main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    tag = pipeline("token-classification", model=str(project / "run"), device="cpu", aggregation_strategy="first")
    for text, row in zip(texts, out, strict=True):
        expected = tag(text) if text else []
        assert [(e["label"], e["start"], e["end"]) for e in row["entities"]] == [
            (e["entity_group"], e["start"], e["end"]) for e in expected
        ]
        assert [e["score"] for e in row["entities"]] == pytest.approx([float(e["score"]) for e in expected], abs=1e-5)
        assert all(e["text"] == text[e["start"] : e["end"]] for e in row["entities"])
    assert out[0]["entities"]
    assert run.main([*arguments, "--output", str(tmp_path / "out.csv")]) == 0
    cells = [row["predicted_entities"] for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())]
    assert cells[0].startswith("zab (person)|") and cells[1] == ""


def with_blanks_in_words(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose words begin with the blank before them, as those of XLM-R and GPT-2 (without trimmed offsets) do."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]") if kind == "metaspace" else models.BPE())
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Metaspace() if kind == "metaspace" else byte
    letters = {} if kind == "metaspace" else {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]"], show_progress=False, **letters)
    backend.train_from_iterator(["Ada flew to Lima, and to São Paulo"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("kind", ["metaspace", "bytes"])
@pytest.mark.parametrize("length", [6, 1000])
@pytest.mark.parametrize(
    ("text", "words"),
    [("Ada flew to Lima", ["Ada", "flew", "to", "Lima"]), ("  Ada   flew ", ["Ada", "flew"]), ("   ", []), ("", []),
     (" " * 40, []), (" " * 40 + "São" + " " * 40 + "Paulo" + " " * 40, ["São", "Paulo"])],
)  # fmt: skip
def test_blanks_are_of_no_word_and_no_name(kind, length, text, words):
    """An entity was ' Lima', one character too early, and blanks were tagged, which parted a name at two of them."""
    item, encoded = Text.of(text, 1), Encoded()
    add_text(item, encoded, with_blanks_in_words(kind), length)
    assert item.words == words == [text[start:stop] for start, stop in item.spans]
    assert item.numbers == [*range(len(words))]
    assert all(len(ids) <= length for ids in encoded.ids)
    p = torch.eye(2)[[i % 2 for i in range(len(words))]]
    found = prediction(item, p, ["I-x", "B-x"], ["x"])["entities"]
    assert [e["text"] for e in found] == [text[e["start"] : e["end"]] for e in found]
    assert " ".join(e["text"] for e in found).split() == words and all(e["text"] == e["text"].strip() for e in found)


def test_a_text_longer_than_the_model_is_read_to_its_end(project):
    task, model, layout = open_model(str(project / "run"), find, device="cpu")
    text = " ".join(["abc"] * 40 + ["zab"] + ["cab"] * 30 + ["qa"])
    for item in (text, text.split()):
        [found] = task.predict(model, [item], layout)
        if isinstance(item, str):
            assert [e["text"] for e in found["entities"]] == ["zab", "qa"]
        else:
            assert found["words"] == item and (found["tags"][40], found["tags"][71]) == ("B-person", "B-place")


def test_tags_that_are_no_parts_of_names(project, tmp_path, capsys):
    """Parts of speech: accuracy and macro F1 of words; predict gives a tag for each."""
    save_rows(tmp_path / "train.jsonl", [row | {"tags": ["NOUN" if w[0] in "zq" else "VERB" for w in row["tokens"]]}
                                         for row in rows_of(80, 3)])  # fmt: skip
    assert run.main([*command(project, tmp_path / "train.jsonl", tmp_path / "train.jsonl"), "--epochs", "3", "--learning-rate", "3e-3",
                     "--output-dir", str(tmp_path / "run")]) == 0  # fmt: skip
    assert "tags: 2, each by itself: " in capsys.readouterr().err
    metrics = json.loads((tmp_path / "run/run.json").read_text())["metrics"]
    assert metrics["eval_accuracy"] > 0.9 and {"eval_f1", "eval_mcc"} <= set(metrics)
    assert run.main(["predict", "--model", str(tmp_path / "run"), "--device", "cpu", "zab bca"]) == 0
    assert capsys.readouterr().out.startswith("zab/NOUN bca/VERB")


def test_a_tagger_that_is_trained_on_keeps_the_meaning_of_its_tags(project, tmp_path, capsys):
    """The data name its tags in another order, and one that it never had is refused before a step."""
    rows = [row for row in rows_of(40, 5) if not any(tag.endswith("person") for tag in row["tags"])]
    save_rows(tmp_path / "more.jsonl", rows)
    arguments = [*command(project, tmp_path / "more.jsonl"), "--output-dir", str(tmp_path / "more")]
    arguments[arguments.index("--model") + 1] = str(project / "run")
    assert run.main([*arguments, "--max-steps", "1"]) == 0
    assert "tags: those of" in capsys.readouterr().err
    saved, before = (
        json.loads((folder / "config.json").read_text())["id2label"] for folder in (tmp_path / "more", project / "run")
    )
    assert saved == before
    save_rows(tmp_path / "more.jsonl", [*rows, {"tokens": ["a"], "tags": ["B-thing"]}])
    code, line = fails([*arguments[:-1], str(tmp_path / "other")], capsys)
    assert code == 3 and "the data have the tag 'B-thing', and" in line and "was trained for O, B-person" in line


def test_numbers_are_tags_in_the_order_of_their_names(project, tmp_path):
    """A tag that the training data happen to lack has its place all the same."""
    names = ("O", "B-other", *TAGS[1:])
    save_rows(tmp_path / "t.jsonl", [row | {"tags": [names.index(tag) for tag in row["tags"]]} for row in rows_of(20, 0)])
    arguments = [*command(project, tmp_path / "t.jsonl", tmp_path / "t.jsonl"), "--label-names", ", ".join(names)]
    assert run.main([*arguments, "--max-steps", "1", "--output-dir", str(tmp_path / "run")]) == 0
    saved = json.loads((tmp_path / "run/config.json").read_text())["id2label"]
    assert [saved[str(i)] for i in range(6)] == list(names)


@pytest.mark.parametrize(
    ("train", "evaluation", "words"),
    [
        ([{"tokens": ["a"], "tags": ["O"]}], None, "one tag only, 'O'"),
        ([{"tokens": [], "tags": []}], None, "no row has a word"),
        ([{"tokens": ["a", "b"], "tags": ["O"]}], None, "row 1: 2 words and 1 tags"),
        ([{"tokens": ["a", "b"], "tags": ["O", "B-x"]}], [{"tokens": ["c"], "tags": ["B-y"]}],
         "row 1: the tag 'B-y' is none of those trained: O, B-x"),
        ([{"tokens": ["a", "b"], "tags": ["B-x", "y"]}], None, "the tag 'y' is no part of a name"),
        ([{"words": ["a"], "tags": ["O"]}], None, "no column 'tokens'"),
    ],
)  # fmt: skip
def test_faults_of_the_data_are_one_line(project, tmp_path, capsys, train, evaluation, words):
    save_rows(tmp_path / "train.jsonl", train)
    save_rows(tmp_path / "eval.jsonl", evaluation or rows_of(3, 1))
    code, line = fails(
        [*command(project, tmp_path / "train.jsonl", tmp_path / "eval.jsonl"), "--output-dir", str(tmp_path / "r")], capsys
    )
    assert code == 3 and words in line


def test_the_sample_is_a_function_of_its_seed_and_its_held_out_names_are_new():
    words, tags = entities.sentences(200, 0)
    assert (words, tags) == entities.sentences(200, 0) and words != entities.sentences(200, 1)[0]
    assert (
        all(len(w) == len(t) for w, t in zip(words, tags, strict=True))
        and kinds_of(sorted({tag for its in tags for tag in its})) is not None
    )

    def names(some):
        return {" ".join(w[a : b + 1]) for w, t in zip(*some, strict=True) for _, a, b in things(t)}

    held_out = names(entities.sentences(500, 1))
    assert len(held_out - names(entities.sentences(2000, 0))) > 0.5 * len(held_out)
