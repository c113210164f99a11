"""--task qa: SQuAD in its forms, windows of long texts, run_qa's losses and answers, the SQuAD script's figures."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.squad_rows import questions_in
from engine.data.tables import plain_row
from engine.distributed.world import World
from engine.errors import DataError, ModelError
from engine.finished import open_model
from engine.loop import train_step
from engine.model.packing_check import compare_small_copy
from tasks import find
from tasks.options import QAOptions
from tasks.qa.metrics import AnswerMetrics, score
from tasks.qa.predicted import asked
from tasks.qa.rows import Question, answers_of, questions_of
from tasks.qa.spans import Found, answers, best_spans
from tasks.qa.windows import encode
from tasks.samples import passages
from tests.toys import squad
from tests.toys.answers import PIECES, make_task, model, row, rows, save_model, save_rows, tokenizer
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, lines_of, train_to

ROOT = Path(__file__).parent.parent.parent.parent
NONE = {"text": [], "answer_start": []}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model without a head, rows with and without answers, and a finished run over them."""
    folder = tmp_path_factory.mktemp("qa")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(120, 0, every_none=4))
    save_rows(folder / "eval.jsonl", rows(40, 1, every_none=4))
    assert run.main([*command(folder), "--output-dir", str(folder / "run"), "--epochs", "5", "--learning-rate", "3e-3"]) == 0
    return folder


def command(folder: Path, train: Any = "train.jsonl", evaluation: Any = "eval.jsonl") -> list[str]:
    return ["--task", "qa", "--model", str(folder / "model"), "--train-file", str(folder / train), "--eval-file",
            str(folder / evaluation), "--device", "cpu", "--batch-size", "8", "--max-length", "32", "--stride", "8"]  # fmt: skip


def question(context: str, *texts: str, of: str = "a?") -> Question:
    return Question(of, context, tuple((text, context.index(text)) for text in texts))


# --------------------------------------------------------------------------------------------------------------- rows


def test_answers_in_all_their_forms():
    context = "Ada flew to Lima, and Ada stayed."
    pair = (("Ada", 0), ("Lima", 12))
    assert answers_of({"text": ["Ada", "Lima"], "answer_start": [0, 12]}, context) == pair
    assert answers_of([{"text": "Ada", "answer_start": 0}, {"text": "Lima", "answer_start": 12}], context) == pair
    assert answers_of({"text": "Ada", "answer_start": 22}, context) == (("Ada", 22),), "the one that is meant, of two alike"
    assert answers_of({"text": [" Lima"], "answer_start": [11]}, context) == (("Lima", 12),)
    assert answers_of(NONE, context) == answers_of([], context) == ()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"text": ["Ada"], "answer_start": [1]}, "the answer 'Ada' is not at 1 of its context, where 'da ' is: it stands at 0"),
        ({"text": ["Eve"], "answer_start": [0]}, "it stands nowhere in it"),
        ({"text": ["Ada"], "answer_start": [-1]}, "is not at -1"),
        ({"text": ["Ada"], "answer_start": [99]}, "is not at 99 of its context, where '' is"),
        ({"text": [""], "answer_start": [0]}, "an answer is blank"),
        ({"text": ["Ada"], "answer_start": [0, 3]}, "1 answers with 2 places"),
        ({"text": ["Ada"], "answer_start": [None]}, "its place a number"),
        ({"text": ["Ada"], "answer_start": [True]}, "its place a number"),
        ({"text": [3], "answer_start": [0]}, "an answer is a text"),
        ({"text": ["Ada"]}, "answers are {text: [...], answer_start: [...]}"),
        ("Ada", "answers are {text"),
        (None, "where no answer is two empty lists, found None"),
    ],
)
def test_what_is_no_answer_is_refused(cell, words):
    with pytest.raises(ValueError) as error:
        answers_of(cell, "Ada flew")
    assert words in str(error.value)


def test_a_row_that_is_refused_is_named_with_its_question():
    table = Dataset.from_list([row(0, 0), row(0, 1) | {"question": "who?", "answers": {"text": ["zz"], "answer_start": [0]}}])
    with pytest.raises(DataError, match=r"here, row 2 \(who\?\): the answer 'zz' is not at 0"):
        questions_of(table, QAOptions(), "here")


def nested(some: list[dict[str, Any]]) -> dict[str, Any]:
    """SQuAD 2.0's form: two articles, a paragraph for each context."""
    articles: list[Any] = [{"title": "A", "paragraphs": []}, {"title": "B", "paragraphs": []}]
    for i, each in enumerate(some):
        places = zip(each["answers"]["text"], each["answers"]["answer_start"], strict=True)
        found = [{"text": text, "answer_start": start} for text, start in places]
        asked_for = {"id": each["id"], "question": each["question"], "answers": found, "is_impossible": not found}
        articles[i * 2 // len(some)]["paragraphs"].append({"context": each["context"], "qas": [asked_for]})
    return {"version": "v2.0", "data": articles}


@pytest.mark.slow
def test_the_nested_form_trains_the_same_model(project, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(nested(rows(120, 0, every_none=4)), indent=1))
    (tmp_path / "eval.json").write_text(json.dumps(nested(rows(40, 1, every_none=4))))
    for name, files in (("flat", ("train.jsonl", "eval.jsonl")), ("nested", (tmp_path / "train.json", tmp_path / "eval.json"))):
        assert run.main([*command(project, *files), "--max-steps", "3", "--output-dir", str(tmp_path / name)]) == 0
    one, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("flat", "nested"))
    assert one["metrics"]["eval_loss"] == other["metrics"]["eval_loss"]
    assert (tmp_path / "flat/model.safetensors").read_bytes() == (tmp_path / "nested/model.safetensors").read_bytes()


def test_articles_are_held_out_whole(project, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(nested(rows(20, 0))))
    arguments = command(project, tmp_path / "train.json")
    del arguments[arguments.index("--eval-file") : arguments.index("--eval-file") + 2]
    more = ["--eval-fraction", "0.5", "--group-column", "title", "--max-steps", "1", "--output-dir", str(tmp_path / "run")]
    assert run.main([*arguments, *more]) == 0


@pytest.mark.parametrize(
    ("articles", "words"),
    [
        ([{"title": "A"}], "article 1: an object with a list 'paragraphs'"),
        ([{"paragraphs": [{"qas": [{"question": "q", "answers": []}]}]}], "question 1, is not as in SQuAD: it has no 'context'"),
        ([{"paragraphs": [{"context": "c", "qas": [{"answers": []}]}]}], "it has no 'question'"),
        ([{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "c"}]}]}]}], "it has no 'answer_start'"),
        ([{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": None}]}]}], "question 1, is not as in SQuAD"),
        ([{"paragraphs": [{"context": "c", "qas": ["q"]}]}], "question 1, is not as in SQuAD"),
        ([{"paragraphs": [{"context": "c", "qas": [{"question": "q", "is_impossible": True,
                                                    "answers": [{"text": "c", "answer_start": 0}]}]}]}], "marked as impossible"),
    ],
)  # fmt: skip
def test_articles_that_are_none(articles, words):
    with pytest.raises(DataError) as error:
        list(questions_in(Path("x.json"), articles))
    assert words in str(error.value)


# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize(("max_length", "stride"), [(32, 8), (24, 3), (20, 0), (64, 21)])
def test_windows_and_labels_are_run_qas(max_length, stride):
    some = rows(60, 3, every_none=5)
    theirs = squad.features(tokenizer(), some, max_length, stride)
    questions = questions_of(Dataset.from_list(some), QAOptions(), "here")
    windows = encode(questions, tokenizer(), max_length, stride, "here", plain_row)
    assert [ids.tolist() for ids in windows.ids] == [each["input_ids"] for each in theirs]
    assert windows.question == [each["row"] for each in theirs] and (len(theirs) > len(some) or max_length == 64)
    spans = windows.spans(questions, "here")
    for window, (span, each) in enumerate(zip(spans.tolist(), theirs, strict=True)):
        assert [None if a < 0 else (a, b) for a, b in windows.chars[window].tolist()] == each["chars"]
        if span != [-100, -100]:
            assert span == [each["start_positions"], each["end_positions"]], window
    assert stride in (1, 3) or (spans == -100).any() == (stride == 0), "an answer has at most five tokens"


def test_an_answer_across_two_windows_is_whole_in_one_or_is_not_learned(capsys):
    """Ten words of one letter; windows of six of them."""
    some = [question("a b c d e f g h i j", "e f g")]
    wide = encode(some, tokenizer(), 11, 4, "here", plain_row)
    spans = wide.spans(some, "here")
    words = [[PIECES[i] for i in ids[a : b + 1]] for ids, (a, b) in zip(wide.ids, spans.tolist(), strict=True)]
    assert ["e", "f", "g"] in words and all(w in (["e", "f", "g"], ["[CLS]"]) for w in words)
    capsys.readouterr()
    some = [question("a b c d e f g h i j", "b c d e f g h i"), question("a b", "b")]
    spans = encode(some, tokenizer(), 11, 1, "here", plain_row).spans(some, "here")
    assert (spans[:-1] == -100).all() and (spans[-1] > 0).all()
    assert "here: 1 of 2 answers are whole in no window, so they are not learned: a larger --stride" in capsys.readouterr().err


def test_a_window_that_is_no_item_has_no_part_in_loss_and_count():
    task = make_task()
    some = [task.examples()["train"][i] for i in range(4)]
    cut = [each | ({"first": np.int64(-100), "last": np.int64(-100)} if i < 2 else {}) for i, each in enumerate(some)]
    batch, rest = task.collate(cut, Layout()), task.collate(some[2:], Layout())
    assert (batch.num_items, rest.num_items) == (2, 2)
    net = model()
    one, other = (float(task.loss(task.forward(net, each), each).detach()) for each in (batch, rest))
    assert one == pytest.approx(other, rel=1e-6)


def test_the_last_word_of_a_text_is_learned_at_its_place():
    """run_qa's search runs on to the end of the row."""
    some = [question("a b c", "c")]
    windows = encode(some, tokenizer(), 32, 8, "here", plain_row)
    [[first, last]] = windows.spans(some, "here").tolist()
    assert first == last and PIECES[windows.ids[0][first]] == "c"


def test_a_question_that_leaves_no_room_is_refused_with_its_row():
    long = " ".join("q" * 30)
    with pytest.raises(DataError, match=r"row 2: beside its question .* has room for 0 .*: shorten it, or --max-length"):
        encode([question("a b"), question("a b", of=long)], tokenizer(), 32, 8, "here", plain_row)
    some = " ".join("q" * 22)
    with pytest.raises(DataError, match=r"has room for 7 .*, of which 8 are the last window's: a smaller --stride"):
        encode([question(" ".join("a" * 9), of=some)], tokenizer(), 32, 8, "here", plain_row)
    assert len(encode([question(" ".join("a" * 9), of=some)], tokenizer(), 32, 6, "here", plain_row).ids) == 3  # the way in
    assert len(encode([question("a b c", of=some)], tokenizer(), 32, 8, "here", plain_row).ids) == 1, "it fits as it is"


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_refused():
    with pytest.raises(ModelError, match="answers need a fast tokenizer"):
        encode([question("a")], SimpleNamespace(is_fast=False), 8, 2, "here", plain_row)


# -------------------------------------------------------------------------------------------------------------- spans


def given_logits(task: Any, some: list[Question], marks: list[dict[int, float]]) -> list[list[Found]]:
    """The best spans where the logits of the windows' tokens are 0, but for these, of first and of last tokens alike."""
    windows = encode(some, tokenizer(), 32, 8, "here", plain_row)
    batch = task.collate([{"input_ids": ids, "first": 0, "last": 0} for ids in windows.ids], Layout())
    logits = torch.zeros(batch.inputs["input_ids"].shape)
    for i, marked in enumerate(marks):
        for at, value in marked.items():
            logits[i, at] = value
    found = best_spans(SimpleNamespace(start_logits=logits, end_logits=logits), batch, windows, range(len(windows.ids)), 30, 20)
    return [[each for each, q in zip(found, windows.question, strict=True) if q == n] for n in range(len(some))]


def test_no_answer_two_equal_answers_and_an_empty_text():
    task = make_task()
    some = [question("b c b"), question(""), question("b")]  # tokens: [CLS] a ? [SEP] b c b [SEP]
    twice, empty, none = given_logits(task, some, [{4: 5.0, 6: 5.0}, {}, {0: 9.0, 4: 5.0}])
    best = answers(twice, some[0], may_be_none=False)
    # of two spans as good the first; "b" twice, and "b c b", are three answers, at three places
    assert [(each["answer"], each["start"]) for each in best[:3]] == [("b", 0), ("b c b", 0), ("b", 4)]
    assert best[0]["score"] == best[1]["score"] == best[2]["score"] and sum(each["score"] for each in best) == pytest.approx(1)
    assert answers(empty, some[1], may_be_none=False) == [{"answer": "", "start": None, "end": None, "score": 0.0}]
    assert answers(empty, some[1], may_be_none=True) == [{"answer": "", "start": None, "end": None, "score": 1.0}]
    assert answers(none, some[2], may_be_none=False)[0]["answer"] == "b"
    first, second = answers(none, some[2], may_be_none=True)
    assert (first["answer"], second["answer"]) == ("", "b")
    assert first["score"] == pytest.approx(1 / (1 + np.exp(-8.0)))


def test_an_answer_is_no_longer_than_asked_and_never_in_the_question():
    task, some = make_task(), [question("b c d e")]
    windows = encode(some, tokenizer(), 32, 8, "here", plain_row)
    batch = task.collate([{"input_ids": windows.ids[0], "first": 0, "last": 0}], Layout())
    starts, ends = torch.zeros(1, 9), torch.zeros(1, 9)
    starts[0, [1, 4]], ends[0, [2, 7]] = torch.tensor([9.0, 5.0]), torch.tensor([9.0, 5.0])
    outputs = SimpleNamespace(start_logits=starts, end_logits=ends)
    for longest, best in ((4, "b c d e"), (3, "b")):
        [found] = best_spans(outputs, batch, windows, [0], longest, 20)
        assert answers([found], some[0], may_be_none=False)[0]["answer"] == best
        assert all(end - start <= 2 * longest - 1 for _, start, end in found.spans)


WORDS = st.sampled_from(["The", "a", "cat", "CAT.", "cat,", "the", "dog-dog", "%", "é", "7"])


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS, max_size=5), st.lists(st.lists(WORDS, min_size=1, max_size=5), max_size=3))
def test_figures_of_one_question_are_the_squad_scripts(answer, right):
    """200 draws, with several right answers, and with none."""
    texts = [" ".join(words) for words in right] or [""]
    assert score(" ".join(answer), texts) == pytest.approx(squad.figures(" ".join(answer), texts), abs=1e-6)


def test_figures_of_200_generated_questions_are_the_squad_scripts_and_ranks_add_up():
    """Answers of other questions, cut or as they are; two rows have one id, and each counts for itself."""
    some = [
        Question(each["question"], each["context"], tuple(zip(*each["answers"].values(), strict=True)))
        for each in passages.questions(200, 3)
    ]
    some[1] = some[0]._replace(answers=())
    windows = SimpleNamespace(question=list(range(200)))
    generator = np.random.default_rng(0)
    found, expected = {}, []
    for i, each in enumerate(some):
        text, start = each.answers[0] if each.answers and generator.random() < 0.6 else ("", int(generator.integers(0, 60)))
        end = start + len(text) + int(generator.integers(0, 12)) if generator.random() < 0.7 or not text else start + len(text)
        found[i] = Found([(1.0, start, end)], 2.0 if generator.random() < 0.1 else 0.0)
        said = "" if found[i].none else each.context[start:end].strip()
        expected.append(squad.figures(said, [answer for answer, _ in each.answers]))
    halves = [AnswerMetrics(some, windows, 30, may_be_none=True) for _ in range(2)]
    for half, part in zip(halves, (range(0, 200, 2), range(1, 200, 2)), strict=True):
        half.found = {i: found[i] for i in part}

    class Two(World):
        def gather(self, value):
            return [value, halves[1].found]

    halves[0].sync(Two(torch.device("cpu")))
    exact, f1 = np.mean(expected, axis=0)
    assert 0.05 < exact < f1 < 0.95
    assert halves[0].compute() == pytest.approx({"exact_match": exact, "f1": f1}, abs=1e-6)


def test_where_no_question_was_asked_there_is_no_figure():
    assert all(
        np.isnan(value) for value in AnswerMetrics([], SimpleNamespace(question=[]), 30, may_be_none=True).compute().values()
    )


# ----------------------------------------------------------------------------------------------------------- training


class Features(torch.utils.data.Dataset):
    """run_qa's rows for Trainer."""

    def __init__(self, some):
        self.some = [{name: each[name] for name in each if name not in ("chars", "row")} for each in some]

    def __len__(self):
        return len(self.some)

    def __getitem__(self, i):
        return self.some[i]


def beside_trainer(some: list[dict[str, Any]], folder: Path, compute_loss: Any = None) -> tuple[Any, ...]:
    """Losses of thirty steps by Trainer and by the loop, and the largest difference of a parameter."""
    task = make_task()
    table = Dataset.from_list(some)
    data = task.on_tokens(questions_of(table, task.options, "train data"), table, "train")
    ours = model()
    theirs = copy.deepcopy(ours)
    chosen = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5}
    arguments = TrainingArguments(
        str(folder), max_steps=30, per_device_train_batch_size=8, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, **chosen,
    )  # fmt: skip
    features = squad.features(tokenizer(), some, 32, 8)
    trainer = Trainer(theirs, arguments, train_dataset=Features(features), data_collator=DataCollatorWithPadding(tokenizer()))
    if compute_loss is not None:
        trainer.compute_loss = compute_loss
    trainer.train()
    log = [line["loss"] for line in trainer.state.log_history if "grad_norm" in line]
    config = TrainConfig(batch_size=8, max_steps=30, device="cpu", precision="fp32", batching="padded", **chosen)
    setup = build(task, data, config, ours)
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    losses = [float(record.loss_sum / record.num_items) for record in records]
    gap = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    return losses, log, gap, len({len(each["input_ids"]) for each in features})


def test_run_qas_losses_and_weights(tmp_path):
    """Thirty steps with dropout off, on windows of one length, so that nothing is padded: bit for bit, the kernels being the same."""
    losses, log, gap, num_lengths = beside_trainer(rows(120, 0, every_none=4, words=5, length=3), tmp_path)
    assert num_lengths == 1 and len(log) == len(losses) == 30
    assert losses == log and gap == 0


def test_padding_has_a_part_in_the_models_own_loss_and_none_in_ours(tmp_path):
    """The heads of transformers put the logits of padding into the softmax, so that a row's loss depends on what it stands beside."""
    some = rows(120, 0, every_none=4)
    losses, log, _, num_lengths = beside_trainer(some, tmp_path / "a")
    assert num_lengths > 5 and max(abs(a / b - 1) for a, b in zip(losses, log, strict=True)) > 1e-2

    def without_padding(net, inputs, return_outputs=False, num_items_in_batch=None):
        labels = [inputs.pop(name) for name in ("start_positions", "end_positions")]
        outputs = net(**inputs)
        hidden = inputs["attention_mask"] == 0
        both = zip((outputs.start_logits, outputs.end_logits), labels, strict=True)
        parts = [torch.nn.functional.cross_entropy(each.masked_fill(hidden, -torch.inf), at) for each, at in both]
        return sum(parts) / 2

    losses, log, gap, _ = beside_trainer(some, tmp_path / "b", without_padding)
    np.testing.assert_allclose(losses, log, rtol=1e-6)  # a mean of 8 and a sum divided by 8 may be rounded otherwise
    assert gap == 0, "its gradient is the same to the last bit"


def steps_of(task: Any, config: TrainConfig) -> np.ndarray:
    """Loss and norm of each step."""
    setup = build(task, task.examples()["train"], config, model())
    assert setup.layout.kind == config.batching
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    return np.array([[float(record.loss_sum / record.num_items), float(record.grad_norm)] for record in records])


QUIET = {"epochs": 2, "learning_rate": 2e-5, "device": "cpu", "precision": "fp32"}


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_the_cut_into_micro_batches_changes_nothing(batching):
    """16 windows as 1, 2 or 4 micro-batches, some of them no items, the last step short."""
    whole, *others = [
        steps_of(make_task(stride=1), TrainConfig(batch_size=16 // n, accumulation_steps=n, batching=batching, **QUIET))
        for n in (1, 2, 4)
    ]
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-5)


def test_packed_equals_padded_on_either_side():
    packed, right, left = make_task(), make_task(), make_task()
    left._tokenizer.padding_side = "left"
    expected = steps_of(right, TrainConfig(batch_size=8, batching="padded", **QUIET))
    np.testing.assert_allclose(steps_of(packed, TrainConfig(batch_size=8, batching="packed", **QUIET)), expected, rtol=1e-5)
    batches = [task.collate([right.examples()["train"][i] for i in range(5)], Layout()) for task in (right, left)]
    assert int(batches[1].targets["tokens"][0].max()) == batches[1].inputs["input_ids"].shape[1] - 1
    for name in ("start_logits", "end_logits"):
        picked = []
        for batch in batches:
            ids = batch.inputs["input_ids"].flatten()[batch.targets["tokens"].clamp(min=0)]
            picked.append(ids.masked_fill(batch.targets["tokens"] < 0, -1))
        assert torch.equal(*picked), name


def test_few_shapes_where_they_are_wanted():
    """Rounded up, for CUDA graphs: width and length are constant, the loss stays."""
    task, net = make_task(), model()
    data = task.examples()["train"]
    layouts = Layout("packed"), Layout("packed", max_length=32, round_to=128)
    from engine.model import packing

    packing.enable(net, "token")
    plain, rounded = (task.collate([data[i] for i in range(5)], layout) for layout in layouts)
    assert rounded.targets["tokens"].shape == (5, 32) and rounded.inputs["input_ids"].shape[1] % 128 == 0
    one, other = (float(task.loss(task.forward(net.eval(), batch), batch).detach()) for batch in (plain, rounded))
    assert one == pytest.approx(other, rel=1e-6)


def test_both_heads_are_looked_at_where_packed_and_padded_are_compared():
    """A model whose last tokens alone see across rows."""
    from transformers import BertForQuestionAnswering

    class Leaks(BertForQuestionAnswering):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.end_logits = outputs.end_logits + outputs.end_logits.mean(1, keepdim=True)
            return outputs

    net = model()
    assert compare_small_copy(net, "token") is None
    assert "differ on a small Leaks" in str(compare_small_copy(Leaks(net.config), "token"))


def test_killed_and_resumed_is_bitwise_the_same(tmp_path):
    """Packed, with dropout; killed between checkpoints in the second epoch."""
    config = TrainConfig(batch_size=4, accumulation_steps=2, epochs=2, learning_rate=1e-3, log_steps=2, save_steps=3,
                         eval_steps=4, device="cpu", batching="packed")  # fmt: skip
    whole = train_to(tmp_path / "whole", make_task(30), config, model(0.1))
    train_to(tmp_path / "cut", make_task(30), config, model(0.1), until=11)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(30), config, model(0.1), resume=True))
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


@pytest.mark.slow
def test_sigkill_through_run_py(project, tmp_path):
    """A real one; the model file is bitwise that of the run that was left alone."""
    arguments = [*command(project), "--epochs", "4", "--save-steps", "5", "--log-steps", "1"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "whole")]) == 0
    cut = [sys.executable, str(ROOT / "run.py"), *arguments, "--output-dir", str(tmp_path / "cut")]
    process = subprocess.Popen(cut, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    log, deadline = tmp_path / "cut/metrics.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b'"kind": "train"') >= 32:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the run had ended before it could be killed"
    resumed = subprocess.run([*cut, "--resume"], capture_output=True, text=True, check=True)
    assert "resume: exact, from step" in resumed.stdout
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "cut/model.safetensors").read_bytes()
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


def test_lora_and_frozen_layers(project, tmp_path):
    """The head is trained in full, and an adapter answers as the model that it is merged into."""
    arguments = [*command(project), "--max-steps", "3", "--learning-rate", "1e-2"]
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, "--lora", *more, "--precision", "fp32", "--output-dir", str(tmp_path / name)]) == 0
    asked_for = [("ab?", "ab cd ef"), ("x", "y " * 40)]
    given = [list(task.predict(net, asked_for, layout)) for task, net, layout in
             (open_model(str(tmp_path / name), find, device="cpu") for name in ("adapter", "merged"))]  # fmt: skip
    for one, other in zip(*given, strict=True):
        assert one["answer"] == other["answer"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
    saved = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert any("qa_outputs" in name for name in saved) and any("lora_A" in name for name in saved)
    assert json.loads((tmp_path / "adapter/config.json").read_text())["no_answer"] is True
    assert run.main([*arguments, "--freeze", "bert.embeddings", "--output-dir", str(tmp_path / "frozen")]) == 0
    start, found = (load_file(folder / "model.safetensors") for folder in (project / "model", tmp_path / "frozen"))
    assert torch.equal(found["bert.embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])
    assert not torch.equal(found["bert.encoder.layer.0.output.dense.weight"], start["encoder.layer.0.output.dense.weight"])


# -------------------------------------------------------------------------------------------- the finished model's use


@pytest.mark.parametrize("no_answer", ["yes", "no"])
@pytest.mark.parametrize("kind", ["run", "strong"])
def test_the_saved_model_answers_in_the_library_as_here(project, tmp_path, kind, no_answer):
    """AutoModelForQuestionAnswering, and run_qa's rule over all spans; transformers 5 has no pipeline for it. Of a finished run,
    and of a model as it comes from elsewhere, with weights so large that its answers are of all kinds."""
    folder, more = project / "run", {}
    if kind == "strong":
        net = model()
        torch.manual_seed(1)
        for name, weights in net.named_parameters():
            if weights.dim() > 1 and "LayerNorm" not in name:
                torch.nn.init.normal_(weights, std=weights.shape[-1] ** -0.5)
        net.save_pretrained(tmp_path)
        tokenizer().save_pretrained(tmp_path)
        folder, more = tmp_path, {"max_length": 32, "stride": 8}
    some = rows(40, 1, every_none=4) + rows(20, 2, words=14) + rows(40, 4, words=2, length=1)
    net = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    features = squad.features(AutoTokenizer.from_pretrained(folder), some, 32, 8)
    assert len(features) > 1.2 * len(some)
    logits = squad.logits_of(net, features)
    expected = squad.predictions(features, logits, some, v2=no_answer == "yes", pool=32)
    task, opened, layout = open_model(str(folder), find, device="cpu", task="qa", changes={"no_answer": no_answer} | more)
    found = list(task.predict(opened, [(each["question"], each["context"]) for each in some], layout))
    assert layout.kind == "packed"
    for ours, theirs, each in zip(found, expected, some, strict=True):
        assert ours["answer"] == theirs["text"]
        assert ours["score"] == pytest.approx(theirs["p"], abs=1e-5)
        assert ours["start"] is None or each["context"][ours["start"] : ours["end"]] == ours["answer"]
    if kind == "strong":
        assert {each["answer"] == "" for each in found} == ({True, False} if no_answer == "yes" else {False})
        literally = squad.predictions(features, logits, some, v2=no_answer == "yes")  # 20 first and 20 last tokens
        same = [a["answer"] == b["text"] and abs(a["score"] - b["p"]) < 1e-5 for a, b in zip(found, literally, strict=True)]
        print(f"{sum(same)} of {len(same)} as with 20 first and last tokens")
        assert sum(same) > 0.5 * len(same)


def test_evaluate_is_the_squad_scripts_on_what_predict_says(project, capsys):
    document = json.loads((project / "run/run.json").read_text())
    assert document["batching"] == "packed"
    some = rows(40, 1, every_none=4)
    task, opened, layout = open_model(str(project / "run"), find, device="cpu")
    found = list(task.predict(opened, [(each["question"], each["context"]) for each in some], layout))
    each = [squad.figures(ours["answer"], row["answers"]["text"]) for ours, row in zip(found, some, strict=True)]
    exact, f1 = np.mean(each, axis=0)
    capsys.readouterr()
    arguments = ["evaluate", "--model", str(project / "run"), "--file", str(project / "eval.jsonl"), "--device", "cpu",
                 "--precision", "fp32", "--output", str(project / "figures.json")]  # fmt: skip
    assert run.main([*arguments, "--errors", str(project / "errors.csv")]) == 0
    shown = capsys.readouterr().out
    figures = json.loads((project / "figures.json").read_text())
    assert (figures["eval_exact_match"], figures["eval_f1"]) == pytest.approx((exact, f1), abs=1e-6)
    assert figures["classes"]["no answer"]["questions"] == 10 and figures["classes"]["answer"]["questions"] == 30
    lines = list(csv.DictReader((project / "errors.csv").open()))
    wrong = {i + 1 for i, (right, _) in enumerate(each) if not right}
    assert {int(line["row"]) for line in lines} == wrong and f"{len(lines)} wrong rows written to" in shown
    confidence = [float(line["confidence"]) for line in lines]
    assert confidence == sorted(confidence, reverse=True)
    for line in lines:
        number = int(line["row"]) - 1
        assert line["prediction"] == found[number]["answer"] and line["question"] == some[number]["question"]
        assert line["answers"] == "|".join(some[number]["answers"]["text"])


def test_predict_in_all_its_ways(project, tmp_path, capsys, monkeypatch):
    use = ["predict", "--model", str(project / "run"), "--device", "cpu"]
    task, opened, layout = open_model(str(project / "run"), find, device="cpu", changes={"n_best": 3})
    text = "ab cd ef gh"
    pair = list(task.predict(opened, [("ab?", text), ("ef?", text)], layout))
    assert [len(each["answers"]) for each in pair] == [3, 3] and all(
        each["answers"][0]["answer"] == each["answer"] for each in pair
    )
    assert run.main([*use, "--n-best", "3", "ab?", "ef?", text]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{task.describe(each)}\t{q} | {text}" for each, q in zip(pair, ("ab?", "ef?"), strict=True)]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=(tmp_path / "in.txt")))
    (tmp_path / "lines.txt").write_text(f"ab?\t{text}\nef?\t{text}\n")
    assert run.main([*use, "--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "o.csv"), "--n-best", "3"]) == 0
    written = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert [line["answer"] for line in written] == [each["answer"] for each in pair]
    assert written[0]["answers"].count("|") == 2
    save_rows(tmp_path / "in.jsonl", [{"id": i, "question": q, "context": text} for i, q in enumerate(("ab?", "ef?"))])
    assert run.main([*use, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "o.jsonl")]) == 0
    written = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(line["id"], line["answer"], line["start"]) for line in written] == [
        (i, p["answer"], p["start"]) for i, p in enumerate(pair)
    ]
    for arguments, words in (
        (["ab?"], "an answer is found in a text: give it behind the question"),
        (["--input", str(tmp_path / "one.txt")], "row 1: a question and, behind a tab, the text it is asked of, found 'ab?'"),
        (["--input", str(project / "eval.jsonl"), "--question-column", "q"], "no column 'q'"),
    ):
        (tmp_path / "one.txt").write_text("ab?\n")
        code, line = fails([*use, *arguments], capsys)
        assert code in (2, 3) and words in line


def test_a_model_whose_numbers_are_not_finite_gives_no_answer(project):
    task, opened, layout = open_model(str(project / "run"), find, device="cpu")
    opened.qa_outputs.weight.data.fill_(3e38)
    with pytest.raises(ModelError, match="gives no finite numbers for these inputs"):
        list(task.predict(opened, [("ab?", "ab cd")], layout))


def test_a_line_of_standard_input_is_a_question_and_its_text(project, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab?\tab cd\nx\ty\n")))
    assert run.main(["predict", "--model", str(project / "run"), "--device", "cpu", "--input", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_is_asked():
    assert (
        asked({"question": "q", "context": "c", "id": 1}, 1) == asked(("q", "c"), 1) == asked("q\tc", 1) == Question("q", "c")
    )
    assert asked("q\tc\td", 1).context == "c\td"
    for item in (("q", None), {"question": "q"}, "q", 7, ("q", "c", "d")):
        with pytest.raises(DataError, match="the input, row 4"):
            asked(item, 4)


def test_questions_without_an_answer_decide_what_the_model_may_say(project, tmp_path, capsys):
    """Without any in the training data it always gives an answer, and that is said of those in the evaluation data."""
    save_rows(tmp_path / "all.jsonl", rows(24, 0))
    arguments = [*command(project, tmp_path / "all.jsonl"), "--max-steps", "2"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "a")]) == 0
    assert "10 of 40 questions have no answer: counted as wrong, as this model always gives one" in capsys.readouterr().err
    assert run.main([*arguments, "--no-answer", "yes", "--output-dir", str(tmp_path / "b")]) == 0
    assert "counted as wrong" not in capsys.readouterr().err
    assert [json.loads((tmp_path / name / "config.json").read_text())["no_answer"] for name in "ab"] == [False, True]
    assert [open_model(str(tmp_path / name), find, device="cpu")[0].may_be_none for name in "ab"] == [False, True]
    document = json.loads((tmp_path / "b/config.json").read_text()) | {"no_answer": "perhaps"}
    (tmp_path / "b/config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="no_answer must be true or false, found 'perhaps'"):
        open_model(str(tmp_path / "b"), find, device="cpu")
    task, *_ = open_model(str(tmp_path / "a"), find, device="cpu", changes={"no_answer": "yes"})
    assert task.may_be_none
    arguments[arguments.index("--model") + 1] = str(project / "run")  # trained on: what it may say, it may still
    assert run.main([*arguments, "--output-dir", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c/config.json").read_text())["no_answer"] is True


def test_ids_that_repeat_and_several_right_answers(project, tmp_path, capsys):
    some = [each | {"id": "same"} for each in rows(6, 0)]
    first = some[0]["context"].split(" ")[0]
    some[0]["answers"] = {
        "text": [*some[0]["answers"]["text"], first],
        "answer_start": [*some[0]["answers"]["answer_start"], 0],
    }
    save_rows(tmp_path / "t.jsonl", some)
    arguments = [
        *command(project, tmp_path / "t.jsonl", tmp_path / "t.jsonl"),
        "--max-steps",
        "1",
        "--output-dir",
        str(tmp_path / "r"),
    ]
    assert run.main(arguments) == 0
    use = ["--model", str(tmp_path / "r"), "--device", "cpu"]
    assert run.main(["evaluate", *use, "--file", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "f.json")]) == 0
    task, opened, layout = open_model(str(tmp_path / "r"), find, device="cpu")
    found = task.predict(opened, [(each["question"], each["context"]) for each in some], layout)
    expected = np.mean(
        [squad.figures(p["answer"], each["answers"]["text"]) for p, each in zip(found, some, strict=True)], axis=0
    )
    figures = json.loads((tmp_path / "f.json").read_text())
    assert (figures["eval_exact_match"], figures["eval_f1"]) == pytest.approx(tuple(expected), abs=1e-6)
    code, line = fails(["predict", *use, "--input", str(tmp_path / "t.jsonl")], capsys)
    assert code == 3 and "id 'same' stands in row 1, too" in line


@pytest.mark.parametrize(
    ("some", "words"),
    [
        ([{"question": "a", "context": "b c", "answers": {"text": ["c"], "answer_start": [0]}}], "row 1 (a): the answer 'c' is not at 0"),
        ([{"question": "a", "context": "", "answers": {"text": ["c"], "answer_start": [0]}}], "it stands nowhere in it"),
        ([{"question": "a", "context": "b", "answers": None}], "row 1 (a): answers are {text"),
        ([{"question": None, "context": "b", "answers": NONE}], "row 1: a text is needed, found None"),
        ([{"question": "a", "text": "b", "answers": NONE}], "has no column 'context'"),
        ([{"question": " ".join("q" * 40), "context": "b", "answers": NONE}], "row 1: beside its question a window of 32"),
    ],
)  # fmt: skip
def test_faults_of_the_data_are_one_line(project, tmp_path, capsys, some, words):
    save_rows(tmp_path / "t.jsonl", [*some, row(0, 0)] if "context" in some[0] else some)
    code, line = fails([*command(project, tmp_path / "t.jsonl"), "--output-dir", str(tmp_path / "r")], capsys)
    assert code == 3 and words in line


def test_an_empty_context_is_a_question_without_answer(project, tmp_path):
    save_rows(tmp_path / "t.jsonl", [{"question": "a", "context": "", "answers": NONE}, *rows(9, 0)])
    arguments = [*command(project, tmp_path / "t.jsonl", tmp_path / "t.jsonl"), "--max-steps", "1"]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "r")]) == 0


# ------------------------------------------------------------------------------------------------------------- sample


def test_the_sample_is_a_function_of_its_seed_and_its_answers_stand_where_it_says():
    some = passages.questions(300, 0)
    assert some == passages.questions(300, 0) and some[:5] == passages.questions(5, 0) != passages.questions(5, 1)
    for each in some:
        [text], [start] = each["answers"]["text"], each["answers"]["answer_start"]
        assert each["context"][start : start + len(text)] == text
        assert each["context"].count(text) == 1, "no two facts of a kind are alike, so the place is the only one"
    assert len({each["context"] for each in some}) == 300
