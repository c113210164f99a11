"""--task reranker: forms of rows, figures of rankings, CrossEncoderTrainer's losses, CrossEncoder's scores."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import math
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
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sklearn.metrics import average_precision_score, ndcg_score

import run
from engine.build import build
from engine.config import TrainConfig
from engine.distributed.world import World
from engine.errors import DataError, ModelError, UsageError
from engine.finished import open_model
from engine.loop import train_step
from tasks import find
from tasks.reranker.metrics import Ranked, RankingMetrics
from tasks.reranker.predicted import asked
from tasks.reranker.rows import as_label
from tests.toys.answers import save_rows, tokenizer
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, assert_sigkill_changes_nothing, lines_of, train_to
from tests.toys.ranking import lists, make_task, model, pairs, save_model
from tests.toys.ranks import assert_two_ranks_are_one


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A model without a head, rows in both forms, and a finished run over lists."""
    folder = tmp_path_factory.mktemp("reranker")
    save_model(folder / "model")
    for name, rows in (("train", lists(40)), ("eval", lists(20, 1))):
        save_rows(folder / f"{name}.jsonl", rows)
        save_rows(folder / f"{name}-pairs.jsonl", pairs(rows))
    assert run.main([*command(folder), "--output-dir", str(folder / "run"), "--epochs", "5", "--learning-rate", "3e-3"]) == 0
    return folder


AS_LISTS = ("--text-pair-column", "positive", "--negatives-column", "negatives")


def command(folder: Path, train: Any = "train.jsonl", evaluation: Any = "eval.jsonl", form: Any = AS_LISTS) -> list[str]:
    return ["--task", "reranker", "--model", str(folder / "model"), "--train-file", str(folder / train), "--device", "cpu",
            *(["--eval-file", str(folder / evaluation)] if evaluation else []), "--batch-size", "8", "--max-length", "32",
            *form]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- rows


def test_all_forms_are_the_same_pairs():
    rows = lists(6)
    one = make_task(tables={"train": rows}, text_pair_column="positive", negatives_column="negatives")
    several = [
        {"query": r["query"], "positive": r["positive"]} | {f"n{i}": n for i, n in enumerate(r["negatives"])} for r in rows
    ]
    in_lists = [{"query": r["query"], "passage": [r["positive"], *r["negatives"]], "label": [1, 0, 0, 0]} for r in rows]
    scored = [{"query": r["query"], "passage": r["passage"], "score": float(r["label"])} for r in pairs(rows)]
    others = [
        make_task(tables={"train": pairs(rows)}),
        make_task(tables={"train": scored}, label_column="score"),
        make_task(tables={"train": in_lists}),
        make_task(tables={"train": several}, text_pair_column="positive", negatives_column="n0,n1,n2"),
    ]
    expected = one.examples()["train"]
    assert len(expected) == 24 and expected.row_name(5) == "row 2"
    assert all(other.examples()["train"].fingerprint() == expected.fingerprint() for other in others)


def test_what_is_no_label():
    assert [as_label(each) for each in (0, 1, "1", "0.25", True, 0.5)] == [0, 1, 1, 0.25, 1, 0.5]
    for each in (2, -1, None, "relevant", math.nan, math.inf, ""):
        with pytest.raises(ValueError, match="a label is a number from 0"):
            as_label(each)


@pytest.mark.parametrize(
    ("rows", "form", "words"),
    [
        ([{"query": "a", "passage": "b", "label": 3}], (), "row 1: a label is a number from 0 (no answer) to 1 (an answer), found 3"),
        ([{"query": "a", "passage": None, "label": 1}], (), "row 1: a text is needed, found None"),
        ([{"query": "a", "passage": ["b", "c"], "label": [1]}], (), "row 1: 2 passages need a list of as many labels, found [1]"),
        ([{"query": "a", "positive": "b", "negatives": '["c", "d"]'}], AS_LISTS, "row 1: a list of texts, written as one"),
        ([{"query": "a", "positive": "b", "negatives": ["c", None]}], AS_LISTS, "row 1: a text is needed, found None"),
        ([{"query": "a", "positive": "b", "negatives": ["c"]}], (), "another column: --text-pair-column positive --negatives-column negatives"),
        ([{"question": "a", "answer": "b", "negative_1": "c", "negative_2": "d"}], (), "--text-pair-column answer --negatives-column negative_1,negative_2 --text-column NAME"),
        ([{"query": "a", "passage": "b", "score": 1}], (), "another column: --label-column score"),
        ([{"query": "a", "positive": "b", "negatives": ["c"]}], ("--text-pair-column", "negatives", "--negatives-column", "negatives"), "must be different columns"),
    ],
)  # fmt: skip
def test_faults_of_the_data_are_one_line(project, tmp_path, capsys, rows, form, words):
    save_rows(tmp_path / "t.jsonl", rows)
    code, line = fails([*command(project, tmp_path / "t.jsonl", None, form), "--output-dir", str(tmp_path / "r")], capsys)
    assert code in (2, 3) and words in line


def test_the_passages_of_a_query_are_not_parted(project, tmp_path, capsys):
    """Fewer of them are easier to rank; each way in that is named works."""
    arguments = command(project, "train-pairs.jsonl", "eval-pairs.jsonl", ())
    code, line = fails([*arguments, "--max-eval-examples", "9", "--output-dir", str(tmp_path / "a")], capsys)
    assert code == 2 and "--max-eval-examples draws pairs, and parts the passages of a query" in line
    more = ["--max-eval-examples", "9", "--max-steps", "1", "--output-dir", str(tmp_path / "a")]
    assert run.main([*command(project), *more]) == 0
    assert json.loads((tmp_path / "a/run.json").read_text())["data"]["num_examples"]["eval"] == 36
    held_out = [*command(project, "train-pairs.jsonl", None, ()), "--eval-fraction", "0.2", "--max-steps", "1"]
    code, line = fails([*held_out, "--output-dir", str(tmp_path / "b")], capsys)
    assert code == 2 and "--group-column query holds out whole queries" in line
    assert run.main([*held_out, "--group-column", "query", "--output-dir", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b/run.json").read_text())["data"]["num_examples"]["eval"] == 32


def test_the_hubs_rows_hold_out_some_queries(monkeypatch):
    """They are triplets in one split; the sample has the same columns."""
    from engine.data.sources import Source, SourceConfig
    from tasks.options import RerankerOptions
    from tasks.reranker.rows import OWN
    from tasks.reranker.task import Reranker

    rows = [{"query": f"q{i}", "positive": "a", "negative": "b"} for i in range(1000)]
    monkeypatch.setattr(
        Source, "tables", lambda self, columns, *more: {"train": Dataset.from_list(rows).select_columns(columns)}
    )
    task = Reranker(RerankerOptions(max_length=16), Source(SourceConfig()))
    assert task.form is OWN and {split: len(table) for split, table in task.splits().items()} == {"train": 998, "eval": 2}
    assert Reranker(RerankerOptions(), Source(SourceConfig(train_file="t.csv"))).columns() == ["query", "passage", "label"]


# ------------------------------------------------------------------------------------------------------------ figures


def figures(scores: Any, labels: Any) -> tuple[float, float, float]:
    ranked = Ranked(np.asarray(scores, float), np.asarray(labels, float))
    return ranked.ndcg(), ranked.reciprocal_rank(), ranked.average_precision()


LABELS = st.lists(st.integers(0, 1), min_size=2, max_size=25).filter(lambda some: sum(some) > 0)


@settings(deadline=None, max_examples=150)
@given(LABELS, st.randoms(use_true_random=False))
def test_figures_without_equal_scores_are_the_librarys(labels, random):
    scores = random.sample(range(1000), len(labels))
    mrr, ndcg, ap = CrossEncoderRerankingEvaluator([{"query": "", "positive": [], "negative": []}]).compute_metrics(
        np.array(labels), np.array(scores, float)
    )
    assert figures(scores, labels) == pytest.approx((ndcg, mrr, ap), abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=2, max_size=6).filter(lambda s: any(b for _, b in s)))
def test_equal_scores_count_as_in_all_their_orders(rows):
    """The mean over every order, of what scores without equals give; NDCG is scikit-learn's own."""
    scores, labels = np.array(rows).T
    orders = []
    for order in itertools.permutations(range(len(rows))):
        apart = scores + np.array(order) / 100
        orders.append(figures(apart, labels))
    assert figures(scores, labels) == pytest.approx(np.mean(orders, axis=0), abs=1e-9)
    assert figures(scores, labels)[0] == pytest.approx(ndcg_score([labels], [scores], k=10), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda some: max(some) >= 0.5), st.randoms(use_true_random=False)
)
def test_ndcg_of_labels_between_0_and_1_is_scikit_learns(labels, random):
    scores = [random.choice((0.0, 0.5, 1.0)) for _ in labels]
    assert figures(scores, labels)[0] == pytest.approx(ndcg_score([labels], [scores], k=10), abs=1e-9)


def test_a_constant_score_is_no_better_than_chance_and_many_ties_are_no_trouble():
    labels = np.zeros(10)
    labels[0] = 1  # the right one first, as files have it
    chance = sum(1 / place for place in range(1, 11)) / 10
    assert figures(np.zeros(10), labels)[1:] == pytest.approx((chance, chance))
    many = np.zeros(20000)
    many[:100] = 1
    assert figures(np.zeros(20000), many)[2] == pytest.approx(average_precision_score(many, np.random.rand(20000)), abs=0.01)


def judge(metrics: RankingMetrics, scores: Any) -> dict[str, float]:
    metrics.scores = dict(enumerate(map(float, scores)))
    return metrics.compute()


def test_queries_are_put_together_and_a_passage_counts_once():
    query, pair = np.array([0, 0, 1, 0, 0, 2, 2]), np.array([0, 1, 2, 0, 3, 4, 5])
    labels = np.array([1, 0, 1, 0, 0, 1, 0.2])  # pair 0 stands there twice, query 1 has one passage
    found = judge(RankingMetrics(query, pair, labels), [1, 2, 9, 9, 0, 3, 1])
    assert found["mrr@10"] == pytest.approx((1 / 2 + 1) / 2) and found["map"] == found["mrr@10"]
    alone = RankingMetrics(np.arange(4), np.arange(4), np.array([1.0, 0, 1, 0]))
    assert alone.names == ("average_precision",)
    assert judge(alone, [4, 3, 2, 1])["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(judge(RankingMetrics(np.arange(2), np.arange(2), np.zeros(2)), [1, 2])["average_precision"])


def test_ranks_have_all_scores():
    rows = [np.arange(6) // 3, np.arange(6), np.array([1.0, 0, 0, 0, 1, 0])]
    scores = [3, 1, 2, 5, 4, 6]
    one, other = RankingMetrics(*rows), RankingMetrics(*rows)
    one.scores, other.scores = ({i: float(scores[i]) for i in range(start, 6, 2)} for start in (0, 1))

    class Two(World):
        def gather(self, value):
            return [value, other.scores]

    one.sync(Two(torch.device("cpu")))
    assert one.compute() == judge(RankingMetrics(*rows), scores)


# ----------------------------------------------------------------------------------------------------------- training


def test_cross_encoder_trainers_losses_and_weights(tmp_path):
    """Thirty steps with dropout off, labels between 0 and 1 among them; the rows in the order of our plan."""
    some = [each | {"label": each["label"] * 0.75 if i % 5 == 0 else each["label"]} for i, each in enumerate(pairs(lists(60)))]
    task, ours = make_task(tables={"train": some}), model()
    chosen = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5, "max_steps": 30}
    config = TrainConfig(batch_size=8, device="cpu", precision="fp32", batching="padded", **chosen)
    setup = build(task, task.examples()["train"], config, ours)
    order = [[row for _, row in batch.keys] for _, batches in setup.data.steps() for batch in batches]
    (tmp_path / "start").mkdir()
    model().save_pretrained(tmp_path / "start")
    tokenizer().save_pretrained(tmp_path / "start")
    theirs = CrossEncoder(str(tmp_path / "start"), device="cpu", max_length=32, num_labels=1)
    arguments = CrossEncoderTrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=8, use_cpu=True, logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, batch_sampler=lambda dataset, **_: order, **chosen,
    )  # fmt: skip
    trainer = CrossEncoderTrainer(theirs, arguments, train_dataset=Dataset.from_list(some), loss=BinaryCrossEntropyLoss(theirs))
    trainer.train()
    log = [line["loss"] for line in trainer.state.log_history if "grad_norm" in line]
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    losses = [float(record.loss_sum / record.num_items) for record in records]
    assert len(log) == len(losses) == 30 and losses[0] == pytest.approx(log[0], rel=1e-7)
    np.testing.assert_allclose(losses, log, rtol=1e-6)
    gap = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert gap < 1e-6, gap


def steps_of(config: TrainConfig) -> np.ndarray:
    """Loss and norm of each step."""
    task = make_task(15)
    setup = build(task, task.examples()["train"], config, model())
    assert setup.layout.kind == config.batching
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    return np.array([[float(record.loss_sum / record.num_items), float(record.grad_norm)] for record in records])


def test_the_cut_into_micro_batches_and_packing_change_nothing():
    """16 pairs as 1, 2 or 4 micro-batches, the last step short; packed and padded."""
    quiet = {"epochs": 1, "learning_rate": 2e-5, "device": "cpu", "precision": "fp32"}
    whole, *others = [
        steps_of(TrainConfig(batch_size=16 // n, accumulation_steps=n, batching=batching, **quiet))
        for batching in ("padded", "packed")
        for n in (1, 2, 4)
    ]
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-5)


def test_killed_and_resumed_is_bitwise_the_same(tmp_path):
    """Packed, with dropout; killed between checkpoints in the second epoch."""
    config = TrainConfig(batch_size=4, accumulation_steps=2, epochs=2, learning_rate=1e-3, log_steps=2, save_steps=3,
                         eval_steps=4, device="cpu", batching="packed")  # fmt: skip
    whole = train_to(tmp_path / "whole", make_task(12), config, model(0.1))
    train_to(tmp_path / "cut", make_task(12), config, model(0.1), until=8)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(12), config, model(0.1), resume=True))
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


@pytest.mark.slow
def test_sigkill_through_run_py(project, tmp_path):
    """A real one; the model file is bitwise that of the run that was left alone."""
    arguments = [*command(project), "--epochs", "4", "--save-steps", "5", "--log-steps", "1"]
    assert_sigkill_changes_nothing(arguments, tmp_path, 32, 80)


@pytest.mark.distributed
def test_two_ranks_are_one(tmp_path):
    assert_two_ranks_are_one(tmp_path, lambda: make_task(9), model)


def test_lora_and_frozen_layers(project, tmp_path):
    """The head is trained in full, and an adapter scores as the model that it is merged into."""
    arguments = [*command(project), "--max-steps", "3", "--learning-rate", "1e-2"]
    for name, more in (("adapter", []), ("merged", ["--lora-merge"])):
        assert run.main([*arguments, "--lora", *more, "--precision", "fp32", "--output-dir", str(tmp_path / name)]) == 0
    asked_for = [("a?", ["a b c", "e f"])]
    one, other = (list(task.predict(net, asked_for, layout)) for task, net, layout in
                  (open_model(str(tmp_path / name), find, device="cpu") for name in ("adapter", "merged")))  # fmt: skip
    for mine, its in zip(one[0]["passages"], other[0]["passages"], strict=True):
        assert mine["index"] == its["index"] and mine["score"] == pytest.approx(its["score"], abs=1e-5)
    assert any("classifier" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    assert run.main([*arguments, "--freeze", "bert.embeddings", "--output-dir", str(tmp_path / "frozen")]) == 0
    start, found = (load_file(folder / "model.safetensors") for folder in (project / "model", tmp_path / "frozen"))
    assert torch.equal(found["bert.embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])
    assert not torch.equal(found["bert.encoder.layer.0.output.dense.weight"], start["encoder.layer.0.output.dense.weight"])


# -------------------------------------------------------------------------------------------- the finished model's use


def given_pairs() -> list[tuple[str, str]]:
    some = [(each["query"], each["passage"]) for each in pairs(lists(8, 3))]
    return [*some, ("a?", "b c d " * 40), ("a " * 50, "b")]


def test_the_saved_directory_is_a_cross_encoder(project):
    """The same scores, cut texts among them; and its ranking is ours."""
    theirs = CrossEncoder(str(project / "run"), device="cpu")
    task, net, layout = open_model(str(project / "run"), find, device="cpu")
    assert layout.kind == "packed"
    found = list(task.predict(net, given_pairs(), layout))
    np.testing.assert_allclose([each["score"] for each in found], theirs.predict(given_pairs()), atol=1e-5)
    query, passages = "a?", ["e f", "g a h", "b", "a a"]
    [ours] = task.predict(net, [(query, passages)], layout)
    ranked = theirs.rank(query, passages)
    assert [each["index"] for each in ours["passages"]] == [each["corpus_id"] for each in ranked]
    assert [each["passage"] for each in ours["passages"]] == [passages[each["corpus_id"]] for each in ranked]
    as_pairs = list(task.predict(net, [(query, passage) for passage in passages], layout))
    assert sorted((each["rank"], i) for i, each in enumerate(as_pairs)) == [
        (n, each["index"]) for n, each in enumerate(ours["passages"], 1)
    ]


@pytest.mark.parametrize("where", ["config.json", "their file"])
def test_scores_that_are_the_logits_themselves_stay_so(project, tmp_path, where):
    """As models trained on MS MARCO have them, in either of the places that sentence-transformers keeps it; after training, too."""
    folder = tmp_path / "start"
    if where == "their file":
        CrossEncoder(str(project / "run"), device="cpu", activation_fn=torch.nn.Identity()).save_pretrained(str(folder))
    else:
        net = model()
        net.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.0"}
        net.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    arguments = command(project)
    arguments[arguments.index("--model") + 1] = str(folder)
    assert run.main([*arguments, "--max-steps", "1", "--output-dir", str(tmp_path / "on")]) == 0
    for each in (folder, tmp_path / "on"):
        task, net, layout = open_model(str(each), find, device="cpu", task="reranker", changes={"max_length": 32})
        found = [p["score"] for p in task.predict(net, given_pairs(), layout)]
        np.testing.assert_allclose(
            found, CrossEncoder(str(each), device="cpu", max_length=32).predict(given_pairs()), atol=1e-5
        )
    net.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Tanh"}
    with pytest.raises(ModelError, match="known are Sigmoid and Identity"):
        list(task.predict(net, given_pairs(), layout))


def test_evaluate_and_its_errors(project, capsys):
    """The figures are those of sentence-transformers' evaluator on its own scores; wrong are the queries it ranks wrongly."""
    rows = lists(60, 7)
    save_rows(project / "more.jsonl", rows)
    use = ["evaluate", "--model", str(project / "run"), "--file", str(project / "more.jsonl"), "--device", "cpu", "--precision",
           "fp32", "--output", str(project / "f.json"), "--errors", str(project / "e.csv")]  # fmt: skip
    assert run.main(use) == 0
    shown, found = capsys.readouterr().out, json.loads((project / "f.json").read_text())
    theirs = CrossEncoder(str(project / "run"), device="cpu")
    samples = [{"query": r["query"], "positive": [r["positive"]], "negative": r["negatives"]} for r in rows]
    expected = CrossEncoderRerankingEvaluator(samples, show_progress_bar=False)(theirs)
    for name in ("ndcg@10", "mrr@10", "map"):
        assert found[f"eval_{name}"] == pytest.approx(float(expected[name]), abs=1e-6)
    assert 0.6 < found["eval_mrr@10"] < 1
    errors = list(csv.DictReader((project / "e.csv").open()))
    wrong = {i for i, r in enumerate(rows, 1) if theirs.rank(r["query"], [r["positive"], *r["negatives"]])[0]["corpus_id"]}
    assert {int(each["row"]) for each in errors} == wrong and 0 < len(wrong) < 60
    assert f"{len(wrong)} wrong rows written to" in shown and f"  the right passage comes first{60 - len(wrong):>16}" in shown
    for each in errors:
        row = rows[int(each["row"]) - 1]
        assert each["query"] == row["query"] and each["right"] == row["positive"] and each["first"] in row["negatives"]
    ahead = [float(each["ahead"]) for each in errors]
    assert ahead == sorted(ahead, reverse=True) and ahead[-1] >= 0
    save_rows(project / "more-pairs.jsonl", pairs(rows))
    use[use.index("--file") + 1] = str(project / "more-pairs.jsonl")
    assert run.main([*use, "--text-pair-column", "passage", "--negatives-column", "none"]) == 0
    again = json.loads((project / "f.json").read_text())
    assert all(again[name] == pytest.approx(found[name], abs=1e-6) for name in found if name.startswith("eval_m"))


def test_pairs_without_anything_to_rank(project, tmp_path, capsys):
    """Each query once: no ranking, and the average precision of all pairs makes the best model."""
    some = [each | {"query": f"{each['query']}{i}"} for i, each in enumerate(pairs(lists(10)))]
    save_rows(tmp_path / "t.jsonl", some)
    arguments = [
        *command(project, tmp_path / "t.jsonl", tmp_path / "t.jsonl", ()),
        "--epochs",
        "2",
        "--keep-checkpoints",
        "best",
    ]
    assert run.main([*arguments, "--output-dir", str(tmp_path / "r")]) == 0
    document = json.loads((tmp_path / "r/run.json").read_text())
    assert 0 < document["metrics"]["eval_average_precision"] <= 1 and "eval_map" not in document["metrics"]
    code, line = fails(
        ["evaluate", "--model", str(tmp_path / "r"), "--errors", str(tmp_path / "e.csv"), "--device", "cpu"], capsys
    )
    assert code == 2 and "none comes first by mistake" in line


def test_predict_in_all_its_ways(project, tmp_path, capsys):
    use = ["predict", "--model", str(project / "run"), "--device", "cpu"]
    assert run.main([*use, "a?", "e f", "g a h"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.count(";") == 1 and "g a h (0." in line
    (tmp_path / "lines.txt").write_text("a?\te f\nb?\tb c\na?\tg a h\n")
    assert run.main([*use, "--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "o.csv")]) == 0
    written = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert sorted(each["rank"] for each in (written[0], written[2])) == ["1", "2"] and written[1]["rank"] == "1"
    assert run.main([*use, "a?\te f", "b?\tb c", "a?\tg a h"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [float(line.split(" ")[0]) for line in lines] == pytest.approx([float(each["score"]) for each in written], abs=1e-4)
    save_rows(
        tmp_path / "in.jsonl",
        [{"id": 7, "query": "a?", "passage": ["e f", "g a h"]}, {"id": 8, "query": "b?", "passage": ["b"]}],
    )
    for name in ("o.jsonl", "o.csv"):
        arguments = [*use, "--input", str(tmp_path / "in.jsonl"), "--text-pair-column", "passage"]
        assert run.main([*arguments, "--output", str(tmp_path / name)]) == 0
    first, second = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    assert (
        first["id"] == 7 and {each["passage"] for each in first["ranking"]} == {"e f", "g a h"} and len(second["ranking"]) == 1
    )
    assert next(csv.DictReader((tmp_path / "o.csv").open()))["ranking"].count("|") == 1
    for arguments, words in ((["a?"], "a query is given with the passages to rank"),
                             (["--input", str(tmp_path / "one.txt")], "row 1: a query and, behind a tab, a passage, found 'a?'"),
                             (["--input", str(tmp_path / "in.jsonl")], "no column 'positive'")):  # fmt: skip
        (tmp_path / "one.txt").write_text("a?\n")
        code, line = fails([*use, *arguments], capsys)
        assert code in (2, 3) and words in line
    for item in (("q", []), ("q", None), "q", 7, ("q", ["p", None]), (None, "p")):
        with pytest.raises(DataError, match="the input, row 4"):
            asked(item, 4)


def test_models_that_give_no_one_number(project, tmp_path):
    model(num_labels=2).save_pretrained(tmp_path / "two")
    tokenizer().save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="does not give one number for a text: its head has 2 outputs"):
        open_model(str(tmp_path / "two"), find, device="cpu", task="reranker")
    with pytest.raises(ModelError, match=r"it lacks (classifier|bert)"):
        open_model(str(project / "model"), find, device="cpu", task="reranker")
    task, net, layout = open_model(str(project / "run"), find, device="cpu")
    copied = copy.deepcopy(net)
    copied.classifier.weight.data.fill_(3e38)
    with pytest.raises(ModelError, match="gives no finite numbers for these inputs"):
        list(task.predict(copied, [("a", "b")], layout))
    with pytest.raises(UsageError, match="call examples"):
        make_task().known(None)


def test_a_head_that_counts_end_tokens_is_refused():
    from transformers import BartConfig, BartForSequenceClassification

    from tasks.scoring import Scorer

    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    net = BartForSequenceClassification(
        BartConfig(vocab_size=100, num_labels=1, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    )
    with pytest.raises(ModelError, match="whose head counts end tokens: take an encoder or a decoder"):
        Scorer.fitted(SimpleNamespace(), net, "here")


def test_training_goes_on_from_a_reranker(project, tmp_path, capsys):
    """Its head is kept: nothing is new, and after a step of no length it is evaluated as it was."""
    arguments = command(project)
    arguments[arguments.index("--model") + 1] = str(project / "run")
    step = ["--max-steps", "1", "--learning-rate", "1e-12", "--weight-decay", "0"]
    assert run.main([*arguments, *step, "--output-dir", str(tmp_path / "r")]) == 0
    assert "new, to be trained" not in capsys.readouterr().err
    before, after = (json.loads((folder / "run.json").read_text())["metrics"] for folder in (project / "run", tmp_path / "r"))
    assert after["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-5) and before["eval_loss"] < 0.62
