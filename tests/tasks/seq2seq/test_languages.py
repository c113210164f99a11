"""--source-lang and --target-lang: the library's own tokens and losses, what is written begins with its language, and one line
where a language is missing or unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import run
from bench.toys import translators
from engine.data.collate import Layout
from engine.data.sources import Source, SourceConfig
from engine.errors import ModelError, UsageError
from engine.finished import open_model
from tasks import find
from tasks.options import Seq2SeqOptions
from tasks.seq2seq.languages import begins_with, languages_of, tell
from tasks.seq2seq.task import Seq2Seq
from tests.toys.cli import fails
from tests.toys.writing import rows, save_model, save_rows

KINDS = ["nllb", "mbart", "mbart50"]
TEXTS = [each["source"] for each in rows(9, 4)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model of each kind that was told nothing, and rows."""
    folder = tmp_path_factory.mktemp("languages")
    for kind in KINDS:
        translators.save(folder / kind, kind)
    save_rows(folder / "train.jsonl", rows(40, 0))
    save_rows(folder / "eval.jsonl", rows(10, 1))
    return folder


def command(home: Path, model: Any, *more: str) -> list[str]:
    return ["--task", "seq2seq", "--model", str(model), "--train-file", str(home / "train.jsonl"), "--eval-file",
            str(home / "eval.jsonl"), "--device", "cpu", "--max-steps", "2", "--max-target-length", "12", *more]  # fmt: skip


def asked(kind: str, first: int = 0, second: int = 1) -> list[str]:
    codes = translators.CODES[kind]
    return ["--source-lang", codes[first], "--target-lang", codes[second]]


def make_task(kind: str, **options: Any) -> Seq2Seq:
    from datasets import Dataset

    source, target, _ = translators.CODES[kind]
    given = {"train": Dataset.from_list(rows(8)), "eval": Dataset.from_list(rows(4, 5))}
    task = Seq2Seq(
        Seq2SeqOptions(**{"source_lang": source, "target_lang": target} | options), Source(SourceConfig(), tables=given)
    )
    task._tokenizer, task._config = translators.tokenizer(kind), translators.model(kind).config
    return task


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_loss_are_the_librarys(kind):
    """Its tokenizer made with both languages; and the model's own loss of the same labels."""
    task, net = make_task(kind), translators.model(kind).eval()
    data = task.examples()["train"]
    source, target, _ = translators.CODES[kind]
    theirs = translators.tokenizer(kind, src_lang=source, tgt_lang=target)
    batch = task.collate([data[i] for i in range(8)], Layout())
    for i, each in enumerate(rows(8)):
        expected = theirs(each["source"], text_target=each["target"])
        read, written = data[i]["texts"]
        assert read["input_ids"].tolist() == expected["input_ids"] and written["input_ids"].tolist() == expected["labels"]
        assert theirs.convert_tokens_to_ids(source) in expected["input_ids"]
    with torch.no_grad():
        own = task.loss(task.forward(net, batch), batch) / batch.num_items
        library = net(batch.inputs["input_ids"], batch.inputs["attention_mask"], labels=batch.targets["labels"]).loss
    assert float(own) == pytest.approx(float(library), rel=1e-6)


def test_other_languages_are_other_rows():
    """The cache of tokens does not mix them up."""
    found = [make_task("nllb", **more).examples()["train"].fingerprint() for more in ({}, {"target_lang": "fra_Latn"}, {})]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_the_saved_directory_writes_in_its_language_by_itself(home, tmp_path, kind, beams, capsys):
    use = command(home, home / kind, *asked(kind), "--num-beams", str(beams), "--output-dir", str(tmp_path / "run"))
    assert run.main(use) == 0
    source, target, other = translators.CODES[kind]
    assert f"languages: from {source} to {target}" in capsys.readouterr().err
    net = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").eval()
    pieces = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert (pieces.src_lang, pieces.tgt_lang) == (source, target)
    ids = [net.generate(**pieces(text, return_tensors="pt"))[0].tolist() for text in TEXTS]
    place = 0 if kind == "mbart" else 1  # behind the start token
    assert {row[place] for row in ids} == {pieces.convert_tokens_to_ids(target)}
    task, opened, layout = open_model(str(tmp_path / "run"), find, device="cpu")
    texts = [each["generated"] for each in task.predict(opened, TEXTS, layout)]
    assert texts == pieces.batch_decode(ids, skip_special_tokens=True) and not any(
        code in "".join(texts) for code in (target, source)
    )
    task, opened, layout = open_model(str(tmp_path / "run"), find, device="cpu", changes={"target_lang": other})
    written = [opened.generate(**pieces(text, return_tensors="pt"), **task.decoding)[0].tolist() for text in TEXTS]
    assert {row[place] for row in written} == {pieces.convert_tokens_to_ids(other)}
    assert run.main(["evaluate", "--model", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert run.main(["generate", "--model", str(tmp_path / "run"), "--device", "cpu", "a b c"]) == 0


def test_languages_are_kept_when_a_model_is_trained_on(home, tmp_path, capsys):
    assert run.main([*command(home, home / "nllb", *asked("nllb"), "--output-dir", str(tmp_path / "a"))]) == 0
    capsys.readouterr()
    assert run.main([*command(home, tmp_path / "a", "--output-dir", str(tmp_path / "b"))]) == 0
    assert "languages: from eng_Latn to deu_Latn" in capsys.readouterr().err
    only = ["--target-lang", "fra_Latn"]
    assert run.main([*command(home, tmp_path / "a", *only, "--output-dir", str(tmp_path / "c"))]) == 0
    assert "languages: from eng_Latn to fra_Latn" in capsys.readouterr().err
    settings = [json.loads((tmp_path / name / "generation_config.json").read_text()) for name in "abc"]
    pieces = AutoTokenizer.from_pretrained(tmp_path / "a")
    expected = pieces.convert_tokens_to_ids(["deu_Latn", "deu_Latn", "fra_Latn"])
    assert [each["forced_bos_token_id"] for each in settings] == expected


def test_a_model_as_it_comes_is_used(home, capsys):
    """predict, evaluate and generate take the languages of a model that was never trained here."""
    use = ["--model", str(home / "mbart"), "--task", "seq2seq", "--device", "cpu", "--max-new-tokens", "5", *asked("mbart")]
    assert run.main(["predict", *use, "a b"]) == 0
    predicted = capsys.readouterr().out.split("\t")[0]
    assert run.main(["generate", *use, "a b"]) == 0
    assert " ".join(capsys.readouterr().out.split()) == predicted
    assert run.main(["evaluate", *use, "--file", str(home / "eval.jsonl")]) == 0


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (
            "nllb",
            [],
            "its tokenizer (NllbTokenizer) is told the languages of the texts: --source-lang CODE, such as deu_Latn or ",
        ),
        (
            "mbart50",
            ["--source-lang", "en_XX"],
            "is told the languages of the texts: --target-lang CODE, such as af_ZA or ar_AR",
        ),
        ("mbart", ["--source-lang", "en_XX", "--target-lang", "de"], "knows no such language (did you mean de_DE?)"),
        ("nllb", ["--source-lang", "eng", "--target-lang", "deu_Latn"], "--source-lang eng: "),
        ("nllb", ["--source-lang", "xx", "--target-lang", "deu_Latn"], "; it knows 3, such as deu_Latn, eng_Latn, fra_Latn"),
        ("nllb", ["--source-lang", "eng_Latn", "--target-lang", ""], "--target-lang must not be empty"),
    ],
)
def test_a_language_that_is_missing_or_unknown_is_one_line(home, tmp_path, capsys, kind, more, words):
    code, line = fails([*command(home, home / kind, *more), "--output-dir", str(tmp_path / "r")], capsys)
    assert code == 2 and words in line
    code, line = fails(["generate", "--model", str(home / kind), "--task", "seq2seq", *more, "a b"], capsys)
    assert code == 2 and words in line


def test_a_model_without_languages_is_told_none(tmp_path, home, capsys):
    save_model(tmp_path / "t5")
    code, line = fails([*command(home, tmp_path / "t5", "--target-lang", "de"), "--output-dir", str(tmp_path / "r")], capsys)
    assert code == 2 and "--target-lang: the tokenizer of" in line and "is told no language beside a text: leave it out" in line


def test_a_tokenizer_that_puts_its_language_elsewhere_is_refused():
    """SeamlessM4T's, behind the end token; and NLLB's legacy_behaviour, with whose model no text would begin with its language."""
    odd = translators.tokenizer("nllb", src_lang="eng_Latn", tgt_lang="deu_Latn")
    odd.set_tgt_lang_special_tokens = lambda language: setattr(odd, "prefix_tokens", [2, odd.convert_tokens_to_ids(language)])
    with pytest.raises(ModelError, match="puts the language of a text neither before it nor behind its end"):
        begins_with(odd)
    task = make_task("nllb")
    task._tokenizer = translators.tokenizer("nllb", legacy_behaviour=True)
    with pytest.raises(ModelError, match=r"behind a target .legacy_behaviour., and its decoder does not start with it"):
        task.examples()


def test_the_tokenizer_reads_as_before_when_it_has_been_told():
    """Asking it where it puts the language of a target leaves it with that of the source."""
    pieces = translators.tokenizer("nllb")
    told = tell(pieces, "fra_Latn", "deu_Latn")
    assert told is not None and told[:2] == ("fra_Latn", "deu_Latn")
    assert pieces("a")["input_ids"][0] == pieces.convert_tokens_to_ids("fra_Latn")
    assert languages_of(pieces) == ["deu_Latn", "eng_Latn", "fra_Latn"]
    with pytest.raises(UsageError, match=r"--source-lang fra: .* knows no such language .did you mean fra_Latn"):
        tell(pieces, "fra", "deu_Latn")


def pieces_of_sentencepiece(folder: Path) -> Any:
    """A vocabulary of the toys' letters, in s.model of the folder; it skips the test where there is no sentencepiece."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "t.txt").write_text("\n".join(each["source"] for each in rows(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "t.txt"), model_prefix=str(folder / "s"), vocab_size=14, hard_vocab_limit=False, minloglevel=2
    )
    return sentencepiece.SentencePieceProcessor(str(folder / "s.model"))


@pytest.mark.slow
def test_m2m100s_own_tokenizer(tmp_path):
    """It has codes that are not its tokens, and needs sentencepiece."""
    pieces = pieces_of_sentencepiece(tmp_path)
    from transformers import M2M100Tokenizer

    known = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size()))]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(known)}))
    found = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "s.model"))
    told = tell(found, "en", "de")
    assert told is not None and told.begins == {"forced_bos_token_id": found.get_lang_id("de")}
    assert found("a b")["input_ids"][0] == found.get_lang_id("en")
    assert found(text_target="a b")["input_ids"][0] == found.get_lang_id("de")
    with pytest.raises(UsageError, match=r"--target-lang dee: .* knows no such language .did you mean de"):
        tell(found, "en", "dee")


@pytest.mark.slow
def test_plbart_is_told_programming_languages(home, tmp_path, capsys):
    """Its tokenizer puts them behind a text, as mBART's does, calls them __python__ and __en_XX__, and needs sentencepiece."""
    pieces_of_sentencepiece(tmp_path)
    from transformers import PLBartConfig, PLBartForConditionalGeneration, PLBartTokenizer

    found = PLBartTokenizer(str(tmp_path / "s.model"), model_max_length=64)
    torch.manual_seed(0)
    net = PLBartForConditionalGeneration(
        PLBartConfig(vocab_size=len(found), bos_token_id=0, pad_token_id=1, eos_token_id=2, **translators.SIZES)
    )
    net.save_pretrained(tmp_path / "model")
    found.save_pretrained(tmp_path / "model")
    use = command(home, tmp_path / "model", "--source-lang", "__python__", "--target-lang", "__en_XX__")
    assert run.main([*use, "--output-dir", str(tmp_path / "run")]) == 0
    net = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run").eval()
    pieces = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert pieces("a b")["input_ids"][-1] == pieces.convert_tokens_to_ids("__python__")
    ids = [net.generate(**pieces(text, return_tensors="pt"))[0].tolist() for text in TEXTS]
    assert {row[0] for row in ids} == {pieces.convert_tokens_to_ids("__en_XX__")}
    task, opened, layout = open_model(str(tmp_path / "run"), find, device="cpu")
    texts = [each["generated"] for each in task.predict(opened, TEXTS, layout)]
    assert texts == pieces.batch_decode(ids, skip_special_tokens=True)
    use[use.index("__python__")] = "python"
    code, line = fails([*use, "--output-dir", str(tmp_path / "other")], capsys)
    assert code == 2 and "knows no such language (did you mean __python__?)" in line
