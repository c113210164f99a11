"""Training files with shares: exact numbers, every row, the same again; nothing of the held-out rows in training."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

import run
from bench.toys import tiny
from engine.data.sources import Source, SourceConfig
from engine.data.tables import row_name
from engine.errors import DataError, UsageError
from tests.toys.killed import killed_after


def write(folder, **sizes):
    for name, number in sizes.items():
        (folder / f"{name}.csv").write_text("text\n" + "".join(f"{name}{i}\n" for i in range(number)))


def mixed(folder, text, **settings):
    source = Source(SourceConfig(train_file=text.format(folder), **settings))
    return source, source.subset(source.tables(["text"])["train"], "train")


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.3), (0.5, 0.5), (7, 3), (0.1, 0.9), (1, 99)])
def test_the_shares_are_exact_and_every_row_occurs(tmp_path, capsys, a, b):
    write(tmp_path, a=70, b=10)
    _, table = mixed(tmp_path, f"{{0}}/a.csv:{a},{{0}}/b.csv:{b}")
    counts = Counter(table["text"][:])
    of = Counter(text[0] for text in table["text"][:])
    assert abs(of["a"] / len(table) - a / (a + b)) < 1 / len(table)
    assert len(counts) == 80 and min(of["a"] / 70, of["b"] / 10) == 1, "no part is cut, none grows without need"
    for name in "ab":
        times = [counts[text] for text in counts if text[0] == name]
        assert max(times) - min(times) <= 1, "repeated as a whole, the rest drawn"
    said = capsys.readouterr().err
    assert f"a.csv {a / (a + b):.1%} (70 rows" in said and f"{len(table)} rows an epoch" in said
    assert {row_name(table, i) for i in range(len(table))} == {f"{tmp_path}/{t[0]}.csv, row {int(t[1:]) + 1}" for t in counts}


@pytest.mark.parametrize("small", ["0.00001", "0." + "0" * 90 + "1"])
def test_a_share_that_would_repeat_the_other_rows_without_end_is_refused(tmp_path, small):
    """It was ten thousand million rows an epoch, and then: out of memory, lower --batch-size."""
    write(tmp_path, a=10, b=10)
    for text in ("{0}/a.csv:%s,{0}/b.csv:1", "{0}/b.csv:1,{0}/a.csv:%s"):
        with pytest.raises(DataError, match=r"a\.csv: its share of .* is so small that .*b\.csv would stand [\d,]+ times"):
            mixed(tmp_path, text % small)
    for share in ("0." + "0" * 320 + "1", "0." + "0" * 330 + "1", "9" * 400):
        with pytest.raises(UsageError, match="give all files a share above 0"):
            mixed(tmp_path, f"{{0}}/a.csv:{share},{{0}}/b.csv:1")


def test_a_part_may_be_several_files(tmp_path):
    write(tmp_path, a1=3, a2=3, b=6)
    _, table = mixed(tmp_path, "{0}/a*.csv:0.25,{0}/b.csv:0.75")
    assert Counter(text[0] for text in table["text"][:]) == {"a": 6, "b": 18}


def test_the_seed_of_the_data_draws_and_nothing_else(tmp_path):
    write(tmp_path, a=7, b=5)
    names = "{0}/a.csv:0.5,{0}/b.csv:0.5"
    first = mixed(tmp_path, names)[1]["text"][:]
    assert mixed(tmp_path, names)[1]["text"][:] == first
    assert any(mixed(tmp_path, names, data_seed=seed)[1]["text"][:] != first for seed in range(5))


def test_what_is_held_out_is_not_trained_on(tmp_path):
    """The mixture repeats rows: it is made of what is left."""
    write(tmp_path, a=30, b=5)
    source, _ = mixed(tmp_path, "{0}/a.csv:0.5,{0}/b.csv:0.5")
    parts = source.hold_out(source.tables(["text"])["train"], None, 0.3)
    train = source.subset(parts["train"], "train")["text"][:]
    assert not set(train) & set(parts["eval"]["text"][:])
    assert Counter(text[0] for text in train)["a"] == Counter(text[0] for text in train)["b"]
    only_a = source.hold_out(source.tables(["text"])["train"].select(range(30)), None, 0.3)["train"]
    with pytest.raises(DataError, match=r"b\.csv: no row of it is left"):
        source.subset(only_a, "train")


def test_a_run_on_a_mixture_resumes_exactly(tmp_path):
    """Killed in its second epoch, between two checkpoints."""
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, a=30, b=10)

    def train(out, *more):
        return run.main(
            ["--task", "classification", "--model", str(tmp_path / "model"), "--train-file", f"{tmp_path}/a.csv:0.5",
             "--train-file", f"{tmp_path}/b.csv:0.5", "--epochs", "2", "--batch-size", "8", "--save-steps", "3", "--device", "cpu",
             "--output-dir", str(tmp_path / out), *more])  # fmt: skip

    assert train("whole") == 0
    with killed_after(11):
        train("cut")
    assert train("cut", "--resume") == 0
    one, other = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
