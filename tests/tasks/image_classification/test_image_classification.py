"""--task image-classification: pictures from everywhere, Trainer's losses, the pipeline's answers, digits learned from scratch."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

import run
from engine.build import build
from engine.config import TrainConfig
from engine.data.sources import Source, SourceConfig
from engine.errors import ModelError, UsageError
from engine.finished import open_model
from engine.loop import train_step
from tasks import find
from tasks.image_classification.task import ImageClassification
from tasks.options import ImageClassificationOptions
from tasks.samples import digits
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, assert_sigkill_changes_nothing, train_to
from tests.toys.parity import assert_parameters_equal
from tests.toys.ranks import assert_two_ranks_are_one

SIDE = 16
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": SIDE,
         "patch_size": 4}  # fmt: skip
COLOURS = {"blue": (40, 60, 210), "green": (40, 180, 60), "red": (210, 50, 40)}


def save_model(folder: Path, dropout: float = 0.1, **labels) -> Path:
    """A small ViT with a head; of that the names of ``labels``, else of ImageNet's kind."""
    torch.manual_seed(0)
    labels = labels or {"id2label": {0: "tench", 1: "goldfish"}, "label2id": {"tench": 0, "goldfish": 1}}
    config = ViTConfig(**SIZES, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **labels)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def noisy(name: str, seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A picture of a colour, and much else."""
    noise = np.random.default_rng(seed).integers(-120, 121, (*size, 3))
    return Image.fromarray(np.clip(np.asarray(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def save_pictures(folder: Path, number: int, seed: int) -> None:
    for at, name in enumerate(COLOURS):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            noisy(name, 1000 * seed + 100 * at + i).save(folder / name / f"{i:03}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A model, pictures in folders of their classes, train and test, and a finished run over them."""
    root = tmp_path_factory.mktemp("pictures")
    save_model(root / "model")
    save_pictures(root / "data/train", 40, seed=1)
    save_pictures(root / "data/test", 12, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
        arguments = command(root, "--output-dir", str(root / "run"), "--epochs", "3", "--learning-rate", "1e-3")
        assert run.main(arguments) == 0
    return root


def command(root: Path, *more: str, data: Path | None = None) -> list[str]:
    return ["--task", "image-classification", "--model", str(root / "model"), "--data", str(data or root / "data"),
            "--device", "cpu", "--batch-size", "8", *more]  # fmt: skip


def make_task(root: Path, data: Path | None = None, model: str = "model", **options) -> ImageClassification:
    source = Source(SourceConfig(data=str(data or root / "data"), model=str(root / model)))
    return ImageClassification(ImageClassificationOptions(**options), source)


# ----------------------------------------------------------------------------------------------- data, in every form


def test_folders_a_file_a_table_and_a_data_set_hold_the_same_rows(project, tmp_path):
    """The same fingerprint: the same pictures with the same labels, prepared in the same way."""
    task = make_task(project)
    rows = task.examples()
    assert task.labels.names == ("blue", "green", "red") and len(rows["train"]) == 120 and len(rows["eval"]) == 36
    names = [f"{name}/{i:03}.png" for name in COLOURS for i in range(40)]
    labels = [name.split("/")[0] for name in names]
    shutil.copytree(project / "data/train", tmp_path / "data")
    with open(tmp_path / "data/metadata.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "label"), *zip(names, labels, strict=True)])
    found = {"metadata.csv": make_task(project, tmp_path / "data")}
    lines = (json.dumps({"picture": name, "kind": label}) + "\n" for name, label in zip(names, labels, strict=True))
    (tmp_path / "data/rows.jsonl").write_text("".join(lines))
    found["jsonl"] = make_task(project, tmp_path / "data/rows.jsonl", image_column="picture", label_column="kind")
    cells = [{"bytes": (project / "data/train" / name).read_bytes(), "path": None} for name in names]
    table = Dataset.from_dict({"image": cells, "label": [list(COLOURS).index(label) for label in labels]})
    table = table.cast_column("image", ImageFeature()).cast_column("label", ClassLabel(names=list(COLOURS)))
    table.to_parquet(tmp_path / "rows.parquet")
    found["parquet"] = make_task(project, tmp_path / "rows.parquet", image_column="image")
    given = Source(SourceConfig(model=str(project / "model")), tables={"train": table})
    found["given in Python"] = ImageClassification(ImageClassificationOptions(), given)
    for what, other in found.items():
        assert other.examples()["train"].fingerprint() == rows["train"].fingerprint(), what
        assert other.labels.names == ("blue", "green", "red"), what


def as_bytes(picture: Image.Image, kind: str = "PNG", **more) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **more)
    return stream.getvalue()


def test_every_kind_of_picture_is_the_same_picture(project, tmp_path):
    """Grey, 16 bits, alpha, palette, and turned by its EXIF: what is predicted is what is predicted for the plain one."""
    task, model, layout = open_model(str(project / "run"), find, device="cpu")
    colours = noisy("red", 5).quantize(16)
    grey = Image.fromarray(np.asarray(noisy("green", 6))[:, :, 1])
    plain = {"palette": colours.convert("RGB"), "grey": grey.convert("RGB"), "16 bits": grey.convert("RGB"),
             "alpha": noisy("blue", 7), "turned": noisy("blue", 8)}  # fmt: skip
    alpha = plain["alpha"].copy()
    alpha.putalpha(200)
    exif = Image.Exif()
    exif[0x0112] = 6  # it is to be turned by 90 degrees, clockwise
    kinds = {
        "palette": as_bytes(colours), "grey": as_bytes(grey), "alpha": as_bytes(alpha),
        "16 bits": as_bytes(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)),
        "turned": as_bytes(plain["turned"].transpose(Image.Transpose.ROTATE_90), exif=exif),
    }  # fmt: skip
    for name, content in kinds.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        [found, expected] = task.predict(model, [str(tmp_path / f"{name}.png"), plain[name]], layout)
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6), name
    unturned = Image.open(BytesIO(kinds["turned"]))
    unturned = Image.fromarray(np.asarray(unturned))
    [other, right] = task.predict(model, [unturned, plain["turned"]], layout)
    assert other["probabilities"] != pytest.approx(right["probabilities"], abs=1e-6), "the comparison can fail"


def test_pictures_of_a_table_are_read_when_they_are_wanted(project, monkeypatch):
    """A data set may hold more pictures than the memory."""
    table = Dataset.from_dict({"image": [{"bytes": as_bytes(noisy("red", i)), "path": None} for i in range(4)],
                               "label": ["a", "b", "a", "b"]}).cast_column("image", ImageFeature(decode=False))  # fmt: skip
    source = Source(SourceConfig(model=str(project / "model")), tables={"train": table})
    rows = ImageClassification(ImageClassificationOptions(), source).examples()["train"]
    assert not any(isinstance(value, list) and value and isinstance(value[0], dict) for value in vars(rows).values())
    assert rows[1]["pixel_values"].shape == (3, SIDE, SIDE) and rows[1]["labels"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "train/red/007.png").write_bytes(b"no picture"), "GIF, BMP, TIFF (red/007.png)"),
        (lambda d: (d / "train/red/007.png").write_bytes((d / "train/red/006.png").read_bytes()[:900]), "not a picture that can"),
        (lambda d: shutil.rmtree(d / "train/red") or (d / "train/red").mkdir(), "red is the folder of a class and holds no"),
        (lambda d: (d / "test/red").rename(d / "test/pink"), "label 'pink' is none of the 3 labels (blue, green, red)"),
        (lambda d: noisy("red", 1).save(d / "train/1.png"), "1.png lies in no folder of a class"),
        (lambda d: (d / "train/red/x.mp4").touch(), "x.mp4 is no picture by its name"),
        (lambda d: [shutil.rmtree(d / s / c) for s in ("train", "test") for c in ("red", "blue")], "at least two classes are needed"),
        (lambda d: (d / "train/red/l.png").symlink_to("/etc/hostname"), "does not lie in"),
        (lambda d: [shutil.rmtree(d / "train" / name) for name in COLOURS], "holds no train file"),
    ],
    ids=["broken", "cut off", "an empty class", "a class only in test", "a loose picture", "another file", "one class", "a link",
         "no folders"],
)  # fmt: skip
def test_faults_of_the_data_are_one_line(project, tmp_path, capsys, change, words):
    shutil.copytree(project / "data", tmp_path / "data")
    change(tmp_path / "data")
    code, line = fails(command(project, "--output-dir", str(tmp_path / "run"), data=tmp_path / "data"), capsys)
    assert code == 3 and words in line, line


@pytest.mark.parametrize(
    ("name", "words"),
    [("/dev/zero", "does not lie in"), ("../beside.png", "does not lie in"), ("pipe.png", "is not a regular file"),
     ("sparse.png", "is larger than 64 MiB"), ("http://127.0.0.1:9/a.png", "is an address"), ("eps.png", "its content is none of")],
)  # fmt: skip
def test_a_name_in_the_data_stands_for_a_picture_in_their_folder(project, tmp_path, capsys, name, words):
    """In training, predict and evaluate, as for captions."""
    folder = tmp_path / "data"
    folder.mkdir()
    noisy("red", 1).save(tmp_path / "beside.png")
    noisy("red", 1).save(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with open(folder / "sparse.png", "wb") as stream:
        stream.truncate(1 << 40)
    file = folder / "metadata.csv"
    file.write_text(f"file_name,label\na.png,red\n{name},blue\na.png,green\n")
    model = ["--model", str(project / "run"), "--device", "cpu"]
    for arguments in (["predict", *model, "--input", str(file)], ["evaluate", *model, "--file", str(file)],
                      command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1", data=file)):  # fmt: skip
        code, line = fails(arguments, capsys)
        assert code == 3 and words in line, arguments


def test_a_folder_without_folders(project, tmp_path, capsys):
    noisy("red", 1).save(tmp_path / "1.png")
    for flags in (["--data", str(tmp_path)], ["--train-file", str(tmp_path)]):
        arguments = ["--task", "image-classification", "--model", str(project / "model"), *flags]
        code, line = fails([*arguments, "--output-dir", str(tmp_path / "run"), "--device", "cpu"], capsys)
        assert code == 3 and "lies in no folder of a class" in line and "metadata.csv" in line


def test_a_class_of_the_evaluation_that_is_named_is_taken(project, tmp_path):
    """The way in that the error names."""
    shutil.copytree(project / "data", tmp_path / "data")
    (tmp_path / "data/test/red").rename(tmp_path / "data/test/pink")
    task = make_task(project, tmp_path / "data", label_names="blue,green,pink,red")
    task.examples()
    assert task.labels.counts.tolist() == [40, 40, 0, 40]


def test_repeated_pictures_and_the_constant_answer_are_said(project, tmp_path, capsys):
    shutil.copytree(project / "data", tmp_path / "data")
    shutil.copy(tmp_path / "data/train/red/001.png", tmp_path / "data/test/red/again.png")
    make_task(project, tmp_path / "data").examples()
    said = capsys.readouterr().err
    assert "warning: 1 of 37 evaluation pictures are training pictures, too" in said
    assert "to beat on the evaluation data: always blue: accuracy 0.32" in said


# ------------------------------------------------------------------------------------------------------- training


def no_dropout() -> ViTForImageClassification:
    torch.manual_seed(1)
    return ViTForImageClassification(ViTConfig(**SIZES, num_labels=len(COLOURS)))


def test_thirty_steps_equal_trainer(project, tmp_path):
    """The same rows in the same order, dropout off: losses to 1e-6, weights bit for bit."""
    task = make_task(project)
    rows = task.examples()["train"]
    ours = no_dropout()
    theirs = copy.deepcopy(ours)
    chosen = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5}
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, remove_unused_columns=False, **chosen,
    )  # fmt: skip

    def together(some):
        return {name: torch.from_numpy(np.stack([row[name] for row in some])) for name in ("pixel_values", "labels")}

    trainer = Trainer(theirs, arguments, train_dataset=rows, data_collator=together)
    trainer.train()
    log = [line for line in trainer.state.log_history if "grad_norm" in line]
    config = TrainConfig(batch_size=8, epochs=2, device="cpu", precision="fp32", **chosen)
    setup = build(task, rows, config, ours)
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    assert len(log) == len(records) == 30
    np.testing.assert_allclose([float(r.loss_sum / r.num_items) for r in records], [line["loss"] for line in log], rtol=1e-6)
    assert_parameters_equal(ours, theirs)


def test_accumulation_gives_the_gradient_of_the_whole(project):
    task = make_task(project)
    rows = task.examples()["train"]
    model = no_dropout().train()
    found = {}
    for number in (1, 2, 4):
        model.zero_grad()
        parts = np.array_split(np.arange(40), number)
        batches = [task.collate([rows[int(i)] for i in part], None) for part in parts]
        items = torch.tensor(float(sum(batch.num_items for batch in batches)))
        for batch in batches:
            task.loss(task.forward(model, batch), batch).div(items).backward()
        found[number] = {name: each.grad.clone() for name, each in model.named_parameters()}
    scale = sum(each.norm() ** 2 for each in found[1].values()) ** 0.5
    for number in (2, 4):
        for name, gradient in found[1].items():
            assert (gradient - found[number][name]).norm() / scale < 1e-6, (number, name)


def test_accumulated_runs_end_in_the_same_weights(project, tmp_path):
    ends = {}
    for size, number in ((24, 1), (12, 2), (6, 4)):
        config = TrainConfig(batch_size=size, accumulation_steps=number, epochs=1, device="cpu", precision="fp32")
        ends[number] = train_to(tmp_path / str(number), make_task(project), config, no_dropout()).model.state_dict()
    for name, weight in ends[1].items():
        for number in (2, 4):
            torch.testing.assert_close(ends[number][name], weight, rtol=0, atol=1e-6)


def test_resume_is_bitwise(project, tmp_path):
    """With dropout, and an evaluation in between."""
    config = TrainConfig(batch_size=8, epochs=2, learning_rate=1e-3, save_steps=4, eval_steps=3, device="cpu")
    whole = train_to(tmp_path / "whole", make_task(project), config)
    train_to(tmp_path / "cut", make_task(project), config, until=10)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(project), config, resume=True))


@pytest.mark.slow  # four processes
def test_a_sigkill_changes_nothing(project, tmp_path):
    more = ["--epochs", "3", "--save-steps", "5", "--log-steps", "1", "--learning-rate", "1e-3"]
    assert_sigkill_changes_nothing(command(project, *more), tmp_path, at_step=20, last=45)


@pytest.mark.distributed
def test_two_ranks_are_one(project, tmp_path):
    assert_two_ranks_are_one(tmp_path, lambda: make_task(project), no_dropout)


@pytest.mark.parametrize("flags", [["--lora"], ["--lora", "--lora-merge"], ["--freeze", "embeddings"], ["--ema-decay", "0.9"],
                                   ["--problem", "multi_label"], ["--class-weights", "balanced", "--label-smoothing", "0.1"],
                                   ["--workers", "1", "--optimizer", "sgd"]], ids=" ".join)  # fmt: skip
def test_other_ways_to_train_are_those_of_other_tasks(project, tmp_path, flags, capsys):
    """What is saved is what was measured."""
    more = ["--max-steps", "4", "--precision", "fp32", "--output-dir", str(tmp_path / "run"), *flags]
    assert run.main(command(project, *more)) == 0
    measured = json.loads((tmp_path / "run/run.json").read_text())["metrics"]
    capsys.readouterr()
    again = ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--output", str(tmp_path / "out.json")]
    assert run.main(again) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["eval_loss"] == pytest.approx(measured["eval_loss"], abs=1e-5)
    assert run.main(["predict", str(tmp_path / "run"), str(project / "data/test/red/001.png"), "--device", "cpu"]) == 0


# -------------------------------------------------------------------------------------------------- what it starts from


def test_the_classes_of_another_data_set_go_and_that_is_said(project, capsys):
    task = make_task(project)
    task.examples()
    assert "labels: those of the data; the 2 of" in capsys.readouterr().err and task.labels.names == tuple(COLOURS)
    assert task.build_model().config.id2label == dict(enumerate(COLOURS))


def test_classes_that_the_model_knows_keep_their_places(project, tmp_path, capsys):
    names = ["red", "violet", "green", "blue"]
    save_model(tmp_path / "model", id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    task = make_task(tmp_path, project / "data")
    task.examples()
    assert task.labels.names == tuple(names) and "labels: those of" in capsys.readouterr().err


def test_some_known_and_some_new_classes_are_refused_and_the_way_in_works(project, tmp_path, capsys):
    save_model(tmp_path / "model", id2label={0: "red", 1: "violet"}, label2id={"red": 0, "violet": 1})
    arguments = command(tmp_path, "--max-steps", "1", "--output-dir", str(tmp_path / "out"), data=project / "data")
    code, line = fails(arguments, capsys)
    assert code == 3 and "label 'blue' is none of the 2 labels (red, violet)" in line and "--label-names" in line
    assert run.main([*arguments, "--label-names", "red,green,blue"]) == 0


def test_a_run_of_ours_keeps_its_classes(project, tmp_path, capsys):
    """Other classes are refused: they would be trained into the places of the old ones."""
    shutil.copytree(project / "data/train", tmp_path / "data")
    for name in COLOURS:
        (tmp_path / "data" / name).rename(tmp_path / "data" / f"new {name}")
    shutil.copytree(project / "run", tmp_path / "model")
    code, line = fails(command(tmp_path, "--output-dir", str(tmp_path / "out")), capsys)
    assert code == 3 and "is none of the 3 labels (blue, green, red)" in line


def test_batch_normalisation_is_refused(project, tmp_path):
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]))
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "model")
    task = make_task(tmp_path, project / "data")
    task.examples()
    with pytest.raises(ModelError, match=r"batch normalisation .*Take ViT"):
        task.build_model()


def test_options_that_cannot_be():
    for options in ({"image_column": "x", "label_column": "x"}, {"image_column": "label"}, {"label_column": ""}):
        with pytest.raises(UsageError, match="must be different columns"):
            ImageClassificationOptions(**options)


# ------------------------------------------------------------------------------------------------------------ its use


def test_the_saved_folder_gives_the_same_answers_in_a_pipeline(project, tmp_path):
    names = sorted(str(path) for path in (project / "data/test").glob("*/*.png"))
    out = tmp_path / "out.jsonl"
    assert run.main(["predict", str(project / "run"), *names, "--output", str(out), "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    classify = pipeline("image-classification", model=str(project / "run"), device="cpu", top_k=None)
    assert len(rows) == len(names) == 36
    for name, row in zip(names, rows, strict=True):
        expected = {each["label"]: each["score"] for each in classify(name)}
        assert row["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert row["predicted_label"] == max(expected, key=expected.__getitem__)


def test_evaluate_a_folder_with_the_wrong_ones(project, tmp_path, capsys):
    """The figures are those of scikit-learn over the answers that predict gives."""
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    folder = str(project / "data/test")
    arguments = ["evaluate", str(project / "run"), "--file", folder, "--device", "cpu", "--precision", "fp32"]
    assert run.main([*arguments, "--errors", str(tmp_path / "wrong.csv"), "--output", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (
        run.main(["predict", str(project / "run"), "--input", folder, "--output", str(tmp_path / "p.csv"), "--device", "cpu"])
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    right, predicted = [row["label"] for row in rows], [row["predicted_label"] for row in rows]
    assert found["eval_accuracy"] == pytest.approx(accuracy_score(right, predicted), abs=1e-6)
    assert found["eval_f1"] == pytest.approx(f1_score(right, predicted, average="macro"), abs=1e-6)
    for counts in confusion_matrix(right, predicted, labels=list(COLOURS)).tolist():
        assert "".join(f"{count:>8}" for count in counts) in shown
    wrong = list(csv.DictReader((tmp_path / "wrong.csv").read_text().splitlines()))
    assert {row["file_name"] for row in wrong} == {row["file_name"] for row in rows if row["label"] != row["predicted_label"]}
    assert all(row["file_name"].startswith(row["label"] + "/") for row in wrong)


def test_check_data_card_and_push(project, tmp_path, capsys):
    card = (project / "run/README.md").read_text()
    assert "pipeline_tag: image-classification" in card and "pipeline('image-classification', model=name)" in card
    assert run.main(["push", "--model", str(project / "run"), "--repo", "someone/x", "--dry-run"]) == 0
    assert "preprocessor_config.json" in capsys.readouterr().out


WITHOUT_PILLOW = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda kind, name, *more: None if name == "PIL" else find(name, *more))
import run
sys.exit(run.main(["--task", "image-classification"]))
"""


@pytest.mark.slow
def test_without_its_extra_one_line_says_so():
    ended = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW], capture_output=True, text=True, check=False)
    line = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2 and line.startswith("error: image-classification needs the package PIL"), line
    assert "'.[image-classification]'" in line


# ------------------------------------------------------------------------------------------------------------- the sample


def test_without_scikit_learn_the_sample_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"scikit-learn's.*'\.\[image-classification\]'"):
        digits.splits()


def test_the_sample_is_scikit_learns_and_splits_it():
    from sklearn.datasets import load_digits

    parts, known = digits.splits(), load_digits()
    assert {split: len(labels) for split, (_, labels) in parts.items()} == {"train": 1347, "eval": 450}
    found = {}
    for pictures, labels in parts.values():
        for content, label in zip(pictures, labels, strict=True):
            values = np.asarray(Image.open(BytesIO(content))).astype(float) * 16 / 255
            found.setdefault(tuple(np.round(values).astype(int).ravel()), set()).add(label)
    assert found.keys() == {tuple(image.astype(int).ravel()) for image in known.images}
    assert not set(parts["train"][0]) & set(parts["eval"][0])
    folder, _ = digits.small_vit()
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    shutil.rmtree(folder)
    torch.manual_seed(99)
    assert digits.small_vit()[0] == folder
    assert before == {path.name: path.read_bytes() for path in Path(folder).iterdir()}
