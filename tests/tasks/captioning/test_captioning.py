"""Captioning: three kinds of models against the library's own loss and generate, pictures from everywhere, the drawn sample."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    GitConfig,
    GitForCausalLM,
    VisionEncoderDecoderModel,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import run
from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.sources import Source, SourceConfig
from engine.data.taken import NotCachedError
from engine.errors import DataError, ModelError, UsageError
from engine.finished import open_model
from engine.fit import fit
from engine.loop import forward_backward
from tasks import find
from tasks.captioning.metrics import CaptionMetrics
from tasks.captioning.pictures import decode, open_picture
from tasks.captioning.task import Captioning, CaptioningOptions
from tasks.samples import shapes
from tasks.samples.shapes import drawn, save_small_captioner
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, train_to

SIDE = 32
TEXT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 8,
}


def git() -> GitForCausalLM:
    return GitForCausalLM(GitConfig(**TEXT, vision_config=VISION, max_position_embeddings=128, bos_token_id=2, eos_token_id=3,
                                    pad_token_id=0, hidden_dropout_prob=0.1))  # fmt: skip


def blip() -> BlipForConditionalGeneration:
    text = {**TEXT, "max_position_embeddings": 64, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3,
            "encoder_hidden_size": 32, "label_smoothing": 0.0}  # fmt: skip
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION, label_smoothing=0.0))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A model directory of each kind; ViT-GPT2 is the one from scratch, with the words of bench/toys/tiny.py."""
    folder, found = tmp_path_factory.mktemp("captioners"), {}
    for name, make, processor in (("git", git, CLIPImageProcessorPil), ("blip", blip, BlipImageProcessorPil)):
        torch.manual_seed(0)
        found[name] = tiny.save_model(folder / name, make())
        size = {"shortest_edge": SIDE} if name == "git" else {"height": SIDE, "width": SIDE}
        more = {"crop_size": {"height": SIDE, "width": SIDE}} if name == "git" else {}
        processor(size=size, **more).save_pretrained(found[name])
    found["vit-gpt2"] = folder / "vit-gpt2"
    found["vit-gpt2"].mkdir()
    shapes.save_small_captioner(found["vit-gpt2"], tiny.WORDS)
    return found


KINDS = ("git", "blip", "vit-gpt2")


def picture(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    stream = BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def captions(number: int) -> list[str]:
    generator = np.random.default_rng(9)
    return [" ".join(tiny.WORDS[i] for i in generator.integers(0, 95, int(generator.integers(2, 8)))) for _ in range(number)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures with metadata.csv, as the Hub's imagefolder has them: train and test."""
    root = tmp_path_factory.mktemp("pictures")
    for split, number in (("train", 16), ("test", 6)):
        (root / split).mkdir()
        with open(root / split / "metadata.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("file_name", "text"))
            for i, text in enumerate(captions(number)):
                (root / split / f"{i:03}.png").write_bytes(picture(i))
                writer.writerow((f"{i:03}.png", text))
    return root


def make_task(model: Path, data: Path, **options) -> Captioning:
    return Captioning(
        CaptioningOptions(**{"max_new_tokens": 6, **options}), Source(SourceConfig(data=str(data), model=str(model)))
    )


# ------------------------------------------------------------------------------------- the three kinds of models


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_librarys_own(models, folder, kind):
    """Theirs is the mean over tokens, from ``labels``; ours the sum, from the logits."""
    task = make_task(models[kind], folder)
    rows = task.examples()["train"]
    model = task.build_model().eval()
    batch = task.collate([rows[i] for i in range(5)], Layout())
    assert "labels" not in batch.inputs and batch.num_items == sum(rows.lengths[:5])
    ours = task.loss(task.forward(model, batch), batch)
    tokens = [torch.from_numpy(rows[i]["tokens"].astype(np.int64)) for i in range(5)]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
    labels = ids.masked_fill(mask == 0, -100)
    pixel_values = batch.inputs["pixel_values"]
    if kind == "vit-gpt2":
        theirs = model(pixel_values=pixel_values, labels=labels[:, 1:]).loss
    else:
        theirs = model(pixel_values=pixel_values, input_ids=ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(ours / batch.num_items, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_writes_what_generate_writes(models, folder, tmp_path, kind, capsys):
    """Trained from the command line; loaded again with the library's classes alone."""
    arguments = ["--task", "captioning", "--data", str(folder), "--model", str(models[kind]), "--max-steps", "3", "--batch-size", "4",
                 "--learning-rate", "1e-3", "--max-new-tokens", "6", "--device", "cpu", "--output-dir", str(tmp_path / "run")]  # fmt: skip
    assert run.main(arguments) == 0
    figures = json.loads((tmp_path / "run/run.json").read_text())["metrics"]
    assert {"eval_loss", "eval_bleu", "eval_rouge_l", "eval_exact_match"} <= figures.keys()
    files = sorted(str(path) for path in (folder / "test").glob("*.png"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run").eval()
    prepare, tokenizer = (kind.from_pretrained(tmp_path / "run") for kind in (AutoImageProcessor, AutoTokenizer))
    for beams in (1, 3):
        expected = []
        for file in files:
            pixel_values = prepare(Image.open(file).convert("RGB"), return_tensors="pt").pixel_values
            ids = model.generate(pixel_values=pixel_values, num_beams=beams, max_new_tokens=6, do_sample=False)
            expected.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
        capsys.readouterr()
        arguments = ["caption", "--model", str(tmp_path / "run"), "--device", "cpu", "--num-beams", str(beams)]
        assert run.main([*arguments, *files]) == 0
        assert capsys.readouterr().out.splitlines() == [f"{text}\t{name}" for text, name in zip(expected, files, strict=True)]
    if kind != "vit-gpt2":
        assert (
            AutoProcessor.from_pretrained(tmp_path / "run")(images=Image.open(files[0]), return_tensors="pt").pixel_values.ndim
            == 4
        )
    else:
        assert isinstance(model, VisionEncoderDecoderModel)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 4])
def test_accumulation_gives_the_gradient_of_the_whole(models, folder, kind, number, precision):
    """8 rows as 1, 2 and 4 micro-batches: captions differ in length, so a mean of means would not.

    In bf16 each micro-batch's gradient is rounded to 8 bits of mantissa before it is added.
    """
    tolerance = {"fp32": 2e-6, "bf16": 2**-9}[precision]
    found = []
    for cuts in (1, number):
        task = make_task(models[kind], folder)
        rows = task.examples()["train"]
        setup = build(task, rows, TrainConfig(device="cpu", precision=precision))
        setup.state.model.eval()
        batches = [task.collate([rows[int(i)] for i in cut], setup.layout) for cut in np.array_split(np.arange(8), cuts)]
        num_items = torch.tensor(float(sum(batch.num_items for batch in batches)))
        for batch in batches:
            forward_backward(setup.state, task, batch, num_items)
        found.append({name: p.grad for name, p in setup.state.model.named_parameters() if p.grad is not None})
    whole, parts = found
    scale = torch.stack([g.norm() for g in whole.values()]).norm()
    for name in whole:
        assert (whole[name] - parts[name]).norm() / scale < tolerance, name


def test_resume_is_bitwise(models, folder, tmp_path):
    """With dropout, and an evaluation that writes captions in between."""
    config = TrainConfig(batch_size=4, epochs=2, learning_rate=1e-3, save_steps=3, eval_steps=2, device="cpu")
    whole = train_to(tmp_path / "whole", make_task(models["git"], folder), config)
    train_to(tmp_path / "cut", make_task(models["git"], folder), config, until=5)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(models["git"], folder), config, resume=True))


def test_packed_batches_are_refused(models, folder, tmp_path):
    task = make_task(models["git"], folder)
    with pytest.raises(UsageError, match="--batching packed: this task's batches hold more than text"):
        build(task, task.examples()["train"], TrainConfig(device="cpu", batching="packed"))


def test_without_torchvision_older_versions_of_transformers_say_so_in_one_line(models, folder, monkeypatch):
    class Lacking(type):
        def __getattr__(cls, name):
            raise ImportError("\nAutoImageProcessor requires the Torchvision library but it was not found.\nAnd more.")

    monkeypatch.setattr("tasks.image.AutoImageProcessor", Lacking("AutoImageProcessor", (), {}))
    with pytest.raises(ModelError, match=r"model .*: AutoImageProcessor requires the Torchvision library .* found\.$"):
        make_task(models["git"], folder).examples()


def test_a_model_that_writes_no_captions_is_refused(folder, tmp_path):
    task = make_task(tiny.save_model(tmp_path / "m"), folder)
    with pytest.raises(ModelError, match=r"\(bert\) writes no captions; known kinds: git, blip"):
        task.examples()


def test_captions_that_are_too_long_are_cut_and_counted(models, folder, capsys):
    task = make_task(models["git"], folder, max_length=5)
    rows = task.examples()["train"]
    assert max(rows.lengths) == 4 and "captions cut to 5 tokens" in capsys.readouterr().err
    assert all(rows[i]["tokens"][0] == 2 and rows[i]["tokens"][-1] == 3 for i in range(16))
    with pytest.raises(UsageError, match="--max-length 999: this model takes at most 32"):
        make_task(models["git"], folder, max_length=999).examples()


# ------------------------------------------------------------------------------------------------- where pictures are


def test_a_folder_a_file_and_a_data_set_hold_the_same_rows(models, folder, tmp_path):
    """metadata.csv in folders of splits, beside the pictures as JSON lines, and the Image feature of datasets."""
    from datasets import Dataset
    from datasets import Image as Feature

    flat = tmp_path / "flat"
    shutil.copytree(folder / "train", flat)
    (flat / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": f"{i:03}.png", "text": text}) for i, text in enumerate(captions(16))]
    (flat / "metadata.jsonl").write_text("\n".join(lines))
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(16)], "text": captions(16)}
    given = {"train": Dataset.from_dict(rows).cast_column("image", Feature())}
    model = str(models["vit-gpt2"])
    sources = [
        Source(SourceConfig(data=str(folder), model=model)),
        Source(SourceConfig(data=str(flat), model=model)),
        Source(SourceConfig(train_file=str(flat / "metadata.jsonl"), model=model)),
        Source(SourceConfig(model=model), given),
    ]
    found = [Captioning(CaptioningOptions(), source).examples() for source in sources]
    assert [sorted(splits) for splits in found] == [["eval", "train"], ["train"], ["train"], ["train"]]
    assert len({splits["train"].fingerprint() for splits in found}) == 1
    assert all(np.array_equal(splits["train"][3]["pixel_values"], found[0]["train"][3]["pixel_values"]) for splits in found)


def test_pictures_are_decoded_when_they_are_wanted(models, folder, monkeypatch):
    rows = make_task(models["git"], folder).examples()["train"]
    decoded = []
    monkeypatch.setattr(
        "tasks.captioning.pictures.decode", lambda content, where: decoded.append(where) or decode(content, where)
    )
    rows[3], rows[5]
    file = folder / "train/metadata.csv"
    assert decoded == [f"train data, {file}, row 4", f"train data, {file}, row 6"]


def test_several_captions_of_a_picture(models, tmp_path):
    """A list trains as several rows, and all of them are references; so are rows that repeat a picture."""
    from datasets import Dataset

    (tmp_path / "a.png").write_bytes(picture(1))
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    rows = {"file_name": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "text": [["w1 w2", "w3"], ["w4"]]}
    task = Captioning(CaptioningOptions(), Source(SourceConfig(model=str(models["git"])), {"train": Dataset.from_dict(rows)}))
    assert len(task.examples()["train"]) == 3
    assert task._references["train"] == [["w1 w2", "w3", "w4"]] * 3


def broken(path: Path) -> None:
    path.write_bytes(picture(0)[:60])


def cut_jpeg(path: Path) -> None:
    """Its head is whole, so that ``verify`` of Pillow finds nothing."""
    stream = BytesIO()
    Image.open(BytesIO(picture(0, (96, 96)))).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: stream.tell() // 2])
    with Image.open(path) as opened:
        opened.verify()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), r"row 3: there is no picture .*002\.png"),
        (lambda path: path.write_bytes(b"no picture"), "row 3: not a picture that can be read"),
        (lambda path: path.write_bytes(b""), "row 3: not a picture that can be read"),
        (broken, "row 3: not a picture that can be read"),
        (cut_jpeg, "row 3: not a picture that can be read: image file is truncated"),
    ],
)
def test_pictures_that_are_none_are_refused_before_the_model_is_read(models, folder, tmp_path, damage, words, monkeypatch):
    shutil.copytree(folder, tmp_path / "p")
    damage(tmp_path / "p/train/002.png")
    task = make_task(models["git"], tmp_path / "p")
    monkeypatch.setattr(Captioning, "build_model", None)
    with pytest.raises(DataError, match=words):
        task.examples()


def test_pictures_lie_beside_the_file_that_their_row_came_from(models, folder, tmp_path, monkeypatch):
    """F3. Held-out rows, several files: started in a folder that has other pictures of the same names."""
    for name in ("a", "b"):
        shutil.copytree(folder / "train", tmp_path / name)
    for i in range(16):
        (tmp_path / f"b/{i:03}.png").write_bytes(picture(100 + i))
        (tmp_path / f"{i:03}.png").write_bytes(picture(200 + i))
    monkeypatch.chdir(tmp_path)
    sources = {
        "held out": SourceConfig(train_file="a/metadata.csv", eval_fraction=0.25, model=str(models["git"])),
        "folder": SourceConfig(data="a", eval_fraction=0.25, model=str(models["git"])),
        "two": SourceConfig(train_file="a/metadata.csv,b/metadata.csv", model=str(models["git"])),
    }
    found = {name: Captioning(CaptioningOptions(), Source(source)).examples() for name, source in sources.items()}
    known = {hashlib.sha256(picture(i)).digest() for i in range(16)}
    for name in ("held out", "folder"):
        splits = found[name]
        assert len(splits["eval"]) == 4 and {*splits["train"].digests, *splits["eval"].digests} == known
    assert found["two"]["train"].digests == [hashlib.sha256(picture(i)).digest() for i in (*range(16), *range(100, 116))]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n"
NOT_OURS = "its content is none of PNG, JPEG, WEBP, GIF, BMP, TIFF"


@pytest.fixture
def no_program(monkeypatch):
    """Nothing may be started, and Pillow may not try to."""

    def started(*arguments, **more):
        raise AssertionError(f"started: {arguments}")

    monkeypatch.setattr("subprocess.Popen.__init__", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    with pytest.raises(AssertionError, match="started"), Image.open(BytesIO(EPS)) as eps:
        eps.convert("RGB")


def test_a_program_for_printers_named_png_is_refused_and_starts_none(models, folder, tmp_path, no_program, capsys):
    """Pillow gives an EPS, whatever its name, to Ghostscript: in a folder, behind caption and predict, and as an object."""
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p/train/002.png").write_bytes(EPS)
    with pytest.raises(DataError, match=f"train data, .*metadata.csv, row 3: not a picture that can be read: {NOT_OURS}"):
        make_task(models["git"], tmp_path / "p").examples()
    file = tmp_path / "p/train/002.png"
    (tmp_path / "i.csv").write_text(f"file_name\n{file}\n")
    model = ["--model", str(models["git"]), "--device", "cpu"]
    for arguments in (["caption", *model, str(file)],
                      ["predict", *model, "--task", "captioning", "--input", str(tmp_path / "i.csv")]):  # fmt: skip
        code, line = fails(arguments, capsys)
        assert code == 3 and line == f"error: {file} is not a picture that can be read: {NOT_OURS}"
    for source in (str(file), {"bytes": EPS, "path": "a.png"}):
        with pytest.raises(DataError, match=NOT_OURS):
            open_picture(source, "it")


@pytest.mark.parametrize("column", ["image", "text"])
def test_a_data_set_opens_no_picture_by_itself(models, no_program, column):
    """``datasets`` would decode a column of pictures on reading it, or one of texts that is declared as one."""
    from datasets import Dataset
    from datasets import Image as Feature

    cells = [{"bytes": EPS, "path": "a.png"}] * 4
    rows = {"image": [{"bytes": picture(i), "path": None} for i in range(4)], "text": captions(4)} | {column: cells}
    given = Dataset.from_dict(rows).cast_column("image", Feature()).cast_column(column, Feature())
    task = Captioning(CaptioningOptions(), Source(SourceConfig(model=str(models["git"])), {"train": given}))
    with pytest.raises(DataError, match=NOT_OURS if column == "image" else "train data, column 'text'"):
        task.examples()


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_the_usual_formats_are_read(name):
    """MPO: what telephones write, a JPEG with a second picture behind it."""
    stream = BytesIO()
    more = {"save_all": True, "append_images": [Image.new("RGB", (8, 6), "blue")]} if name == "MPO" else {}
    Image.new("RGB", (8, 6), "red").save(stream, name, **more)
    red, green, blue = np.asarray(decode(stream.getvalue(), "it"))[3, 3].tolist()
    assert red > 245 and green < 10 and blue < 10


def test_a_blank_caption_and_a_missing_column_are_refused(models, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "p")
    path = tmp_path / "p/train/metadata.csv"
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:1], "000.png, ", *whole[2:]]))
    with pytest.raises(DataError, match=r"train data, .*, row 1: the caption is blank"):
        make_task(models["git"], tmp_path / "p").examples()
    with pytest.raises(DataError, match="no column 'caption'"):
        make_task(models["git"], tmp_path / "p", text_column="caption").examples()


@pytest.mark.parametrize(("options", "words"), [({"num_beams": 0}, "--num-beams must be at least 1"), ({"max_length": 2}, "at least 3"),
                                                ({"image_column": "text"}, "must be different columns")])  # fmt: skip
def test_options_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        CaptioningOptions(**options)


def test_pictures_are_turned_the_right_way_up():
    stream = BytesIO()
    turned = Image.new("RGB", (20, 10))
    turned.getexif()[0x0112] = 6  # rotated by a quarter
    turned.save(stream, "JPEG", exif=turned.getexif())
    assert decode(stream.getvalue(), "x").size == (10, 20)
    assert open_picture(Image.new("L", (5, 5)), "x").mode == "RGB"


@pytest.fixture
def server(folder):
    """The pictures over http."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *arguments: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def public(monkeypatch):
    """The server of the tests is on this machine, which is otherwise refused."""
    monkeypatch.setattr("tasks.captioning.download.is_public", lambda address: True)


def test_an_address_a_file_and_a_picture_get_the_same_caption(models, folder, server, public, capsys, tmp_path):
    """With a model that no run of ours has made."""
    file = folder / "test/001.png"
    arguments = ["caption", "--model", str(models["git"]), "--device", "cpu", "--max-new-tokens", "4"]
    assert run.main([*arguments, str(file), f"{server}/test/001.png"]) == 0
    one, other = (line.split("\t")[0] for line in capsys.readouterr().out.splitlines())
    task, model, _ = open_model(str(models["git"]), find, device="cpu", task="captioning", changes={"max_new_tokens": 4})
    [third] = task.predict(model, [Image.open(file)])
    assert one == other == third["caption"] != ""
    assert run.main([*arguments, str(file), "--output", str(tmp_path / "o.csv")]) == 0
    with open(tmp_path / "o.csv", newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"file_name": str(file), "caption": one}]


def test_pictures_of_any_size_are_refused(tmp_path, capsys):
    """A stranger's settings would have each enlarged until the memory is full."""
    save_small_captioner(tmp_path, ["a"])
    path = tmp_path / "preprocessor_config.json"
    before = json.loads(path.read_text())
    (tmp_path / "a.png").write_bytes(drawn("eval")[0][0])
    for changes in (
        {"size": {"height": 10**7, "width": 10**7}},
        {"size": {"shortest_edge": 10**6}},
        {"crop_size": {"height": 9, "width": 5000}},
    ):
        path.write_text(json.dumps(before | changes))
        code, line = fails(["caption", "--model", str(tmp_path), "--device", "cpu", str(tmp_path / "a.png")], capsys)
        assert code == 4 and "points a side; 4096 are the most" in line


def test_captions_of_a_file_and_a_picture_of_them(models, folder, tmp_path, capsys):
    """The names lie beside the file; the title of each picture is its caption."""
    folder = shutil.copytree(folder / "test", tmp_path / "pictures")
    names = ["000.png", "001.png", "002.png"]
    (folder / "names.csv").write_text("id,file_name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    arguments = ["caption", "--model", str(models["git"]), "--device", "cpu"]
    assert run.main([*arguments, *(str(folder / name) for name in names)]) == 0
    expected = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    output, drawn = tmp_path / "captions.jsonl", tmp_path / "captions.svg"
    rest = ["--input", str(folder / "names.csv"), "--output", str(output), "--picture", str(drawn)]
    assert run.main([*arguments, *rest]) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert found == [{"id": str(i), "file_name": name, "caption": text}
                     for i, (name, text) in enumerate(zip(names, expected, strict=True))]  # fmt: skip
    assert drawn.read_text().count("<image") == 3
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/names.csv").write_text(f"file_name\n{folder / names[0]}\n")
    rest = ["--input", str(tmp_path / "elsewhere/names.csv")]
    assert "does not lie in" in fails([*arguments, *rest], capsys)[1]
    rest += ["--image-folder", str(folder)]
    assert run.main([*arguments, *rest]) == 0
    assert capsys.readouterr().out.startswith(expected[0])
    many = [str(folder / names[0])] * 17
    assert "--picture shows at most 16 pictures, found 17" in fails([*arguments, "--picture", str(drawn), *many], capsys)[1]


def test_what_caption_refuses(models, server, tmp_path, capsys):
    arguments = ["caption", "--model", str(models["git"]), "--device", "cpu"]
    assert fails(arguments, capsys) == (2, "error: give a picture: python run.py caption photo.jpg; or --input FILE")
    assert fails([*arguments, "no.png"], capsys)[0] == 3
    assert fails([*arguments, f"{server}/test/none.png"], capsys)[0] == 3
    assert fails([*arguments, "http:///a.png"], capsys)[0] == fails([*arguments, "http://[::1/a.png"], capsys)[0] == 3
    assert "must end in .csv or .jsonl" in fails([*arguments, "a.png", "--output", "x"], capsys)[1]
    assert "--num-beams must be at least 1" in fails([*arguments, "a.png", "--num-beams", "0"], capsys)[1]
    (tmp_path / "t.png").write_bytes(b"text")
    assert "is not a picture that can be read" in fails([*arguments, str(tmp_path / "t.png")], capsys)[1]


def test_without_its_extra_one_line_says_so(monkeypatch, capsys):
    import sys

    import tasks

    monkeypatch.setattr(tasks, "captioning", tasks.captioning)  # which an import below binds to another, and others look up
    for name in [name for name in sys.modules if name.startswith(("tasks.cap", "sacrebleu"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    code, line = fails(["--task", "captioning"], capsys)
    assert code == 2 and line.startswith("error: captioning needs the package sacrebleu") and "'.[captioning]'" in line


# -------------------------------------------------------------------------------------------------------------- metrics


def measured(written: list[str], references: list[list[str]]) -> dict[str, float]:
    """In two batches, the rows in another order."""
    metrics = CaptionMetrics(lambda model, pixel_values: [written[int(i)] for i in pixel_values], references)
    order = torch.randperm(len(written), generator=torch.Generator().manual_seed(0))
    for rows in order.split(2):
        metrics.update(None, None, SimpleNamespace(keys=[(0, int(i)) for i in rows], inputs={"pixel_values": rows.float()}))
    return metrics.compute()


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    return 1 + longest_common(a[1:], b[1:]) if a[0] == b[0] else max(longest_common(a[1:], b), longest_common(a, b[1:]))


def test_figures_against_nltk_and_the_definition():
    """nltk's corpus BLEU on the same tokens; ROUGE-L from the longest common subsequence, the best reference."""
    from nltk.translate.bleu_score import corpus_bleu

    written = [
        "a red circle in the top left",
        "a blue star at the bottom",
        "a green cross on the left side here",
        "two red squares in the middle",
    ]
    known = [["a red circle in the top left"], ["a blue square at the bottom", "one blue star at the very bottom"],
             ["a green cross on the left"], ["a red square in the middle of it"]]  # fmt: skip
    found = measured(written, known)
    tokens = [[text.split() for text in texts] for texts in known]
    assert found["bleu"] == pytest.approx(100 * corpus_bleu(tokens, [text.split() for text in written]), abs=1e-6)

    def rouge(text: str, reference: str) -> float:
        a, b = text.split(), reference.split()
        return 2 * longest_common(a, b) / (len(a) + len(b))

    best = [max(rouge(text, reference) for reference in references) for text, references in zip(written, known, strict=True)]
    assert found["rouge_l"] == pytest.approx(sum(best) / 4) and found["exact_match"] == 0.25
    assert measured(known[2] * 3, [known[2]] * 3) == {"bleu": pytest.approx(100), "rouge_l": 1.0, "exact_match": 1.0}


# ------------------------------------------------------------------------------------------------------- the drawn sample


def test_whole_combinations_are_held_out():
    """54 of 270; each of their shapes, colours and places is learned in other combinations."""
    parts = shapes.combinations()
    assert len(parts["train"]) == 216 and len(parts["eval"]) == 54 and not set(parts["train"]) & set(parts["eval"])
    for position in range(3):
        assert {one[position] for one in parts["eval"]} <= {one[position] for one in parts["train"]}
    _, seen = shapes.drawn("train")
    _, held = shapes.drawn("eval")
    assert not set(seen) & set(held) and len(held) == 324


def test_the_sample_is_a_function_of_its_seed():
    assert shapes.drawn("eval") == shapes.drawn("eval")
    pictures, _ = shapes.drawn("eval")
    assert len(set(pictures)) == len(pictures), "no picture twice"


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_what_is_drawn_is_where_and_what_the_caption_says(shape):
    """The coloured points' centre lies in the right ninth."""
    for colour, place in (("red", "in the top left"), ("blue", "on the right"), ("black", "at the bottom")):
        image = np.asarray(shapes.draw((shape, colour, place), np.random.default_rng(0))).astype(int)
        inside = np.abs(image - np.asarray(shapes.COLOURS[colour])).max(-1) < 25
        assert 20 < inside.sum() < 300
        row, column = (int(where.mean() // (shapes.SIZE / 3)) for where in np.nonzero(inside))
        assert shapes.PLACES[3 * row + column] == place


def test_the_small_model_is_made_once_and_said(tmp_path, monkeypatch, capsys):
    """Without the Hub: drawn data and a model from scratch, the same each time, and each in a visible line."""
    monkeypatch.setattr("engine.data.hub.reachable", lambda: False)
    monkeypatch.setattr("engine.data.hub.go_offline", lambda: None)

    def not_cached(self, *arguments):
        raise NotCachedError("not there")

    monkeypatch.setattr(Source, "_hub", not_cached)
    monkeypatch.setitem(shapes.PER_COMBINATION, "train", 1)
    source = Source(SourceConfig(max_train_examples=32, max_eval_examples=8))
    result = fit(
        Captioning(CaptioningOptions(max_new_tokens=3), source),
        TrainConfig(output_dir=str(tmp_path), max_steps=1, device="cpu"),
    )
    said = capsys.readouterr()
    assert (
        "using embedded sample (shapes drawn by this project" in said.err
        and "small ViT and GPT-2 with random weights" in said.err
    )
    assert "batching: padded, because" in said.err and result.metrics["eval_rouge_l"] >= 0
    folder, _ = shapes.small_captioner(["a b", "b c"])
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    shutil.rmtree(folder)
    torch.manual_seed(99)
    again, _ = shapes.small_captioner(["c b", "a b"])
    assert folder == again and before == {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.slow
def test_nine_of_ten_held_out_combinations_are_described(tmp_path):
    """324 pictures of 54 combinations that were never seen; always saying the most frequent caption meets 1 in 54."""
    source = Source(SourceConfig(data="sample", model=shapes.small_captioner(shapes.drawn("train")[1])[0]))
    config = TrainConfig(output_dir=str(tmp_path), epochs=14, batch_size=32, learning_rate=1e-3, warmup_ratio=0.1, device="cpu")
    metrics = fit(Captioning(CaptioningOptions(), source), config).metrics
    assert metrics["eval_exact_match"] >= 0.9
    trivial = 1 / 54
    assert metrics["eval_exact_match"] > trivial + 3 * (trivial * (1 - trivial) / 324) ** 0.5


RAMP = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))


@pytest.mark.parametrize(("values", "kind"), [(RAMP, "PNG"), (RAMP, "TIFF"), (RAMP.astype(">u2"), "TIFF"), (RAMP.astype(np.int32), "TIFF")],
                         ids=["png", "tiff", "big-endian", "in 32 bits"])  # fmt: skip
def test_pictures_of_sixteen_bits_are_scaled(values, kind):
    """v / 257; Pillow's own conversion to RGB would cut them off at 255, and all but the darkest would be white."""
    content = BytesIO()
    Image.fromarray(values).save(content, kind)
    found = np.asarray(decode(content.getvalue(), "row 1"))
    assert found.shape == (4, 256, 3) and found[0, :, 0].tolist() == np.round(RAMP[0] / 257).astype(int).tolist()
    assert np.array_equal(np.asarray(open_picture(Image.fromarray(values), "row 1")), found)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RAMP.astype(np.float32) / 65535, "its pixels are floats"),
        (RAMP.astype(np.int32) * 2, "its pixels are integers of more than 16 bits"),
        (RAMP.astype(np.int32) - 1, "its pixels are integers of more than 16 bits"),
    ],
)
def test_pictures_whose_white_nothing_says_are_refused(values, words):
    content = BytesIO()
    Image.fromarray(values).save(content, "TIFF")
    for picture in (lambda: decode(content.getvalue(), "row 1"), lambda: open_picture(Image.fromarray(values), "row 1")):
        with pytest.raises(DataError, match=f"{words}, and nothing says which is white: save it with 8 or 16 bits"):
            picture()
