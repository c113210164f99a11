"""Rows of different length become rectangles as the tokenizer's own ``pad`` makes them, with true counts.

One thing is done otherwise on purpose: the attention mask comes from lengths, so a real token that has the padding
token's id is attended to.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.toys import tiny
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange


def rows_of(lengths, *, types=False, seed=0):
    generator = np.random.default_rng(seed)
    rows = [{"input_ids": generator.integers(5, 100, n).astype(np.int32)} for n in lengths]
    if types:
        for row in rows:
            row["token_type_ids"] = generator.integers(0, 2, len(row["input_ids"])).astype(np.int8)
    return rows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("types", [False, True])
@pytest.mark.parametrize("layout", [Layout("padded"), Layout("max_length", 32)])
def test_equal_to_the_tokenizers_own_pad(side, types, layout):
    tokenizer = tiny.tokenizer()
    tokenizer.padding_side = side
    for seed in range(10):
        rows = rows_of(np.random.default_rng(seed).integers(1, 30, 7), types=types, seed=seed)
        inputs, _ = arrange(rows, layout, tokenizer)
        kind = {"padding": "longest"} if layout.kind == "padded" else {"padding": "max_length", "max_length": 32}
        plain = [{name: ids.tolist() for name, ids in row.items()} for row in rows]
        expected = tokenizer.pad(plain, return_tensors="pt", **kind)
        assert inputs.keys() == expected.keys()
        for name, tensor in inputs.items():
            assert tensor.dtype == torch.int64
            assert torch.equal(tensor, expected[name]), name


def test_padding_lies_where_the_tokenizer_wants_it():
    rows = [{"input_ids": np.array([7, 8, 9])}, {"input_ids": np.array([5])}]
    tokenizer = SimpleNamespace(padding_side="right", pad_token_id=1, pad_token_type_id=0)
    inputs, _ = arrange(rows, Layout(), tokenizer)
    assert inputs["input_ids"].tolist() == [[7, 8, 9], [5, 1, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    tokenizer.padding_side = "left"
    inputs, _ = arrange(rows, Layout("max_length", 4), tokenizer)
    assert inputs["input_ids"].tolist() == [[1, 7, 8, 9], [1, 1, 1, 5]]
    assert inputs["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("round_to", [1, 16])
def test_packed_positions_are_those_that_roberta_gives_each_row_alone(round_to):
    """Its own function is the reference: a real token that has the padding's id is not counted."""
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    rows = [{"input_ids": np.array(ids)} for ids in ([0, 7, 1, 8, 2], [1, 5], [6], [9, 9, 1, 1])]
    tokenizer = SimpleNamespace(padding_side="right", pad_token_id=1, pad_token_type_id=0)
    inputs, _ = arrange(rows, Layout("packed", max_length=5, position_start=2, round_to=round_to), tokenizer)
    expected = [
        RobertaEmbeddings.create_position_ids_from_input_ids(torch.from_numpy(row["input_ids"])[None], 1)[0] for row in rows
    ]
    assert inputs["position_ids"][0, :12].tolist() == torch.cat(expected).tolist()
    assert inputs["position_ids"][0, 12:].tolist() == [1] * (inputs["input_ids"].shape[1] - 12)
    inputs, _ = arrange(rows, Layout("packed", round_to=round_to), tokenizer)
    assert inputs["position_ids"][0, :12].tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 0, 1, 2, 3], "the others count every token"


def test_token_types_are_padded_with_their_own_number():
    rows = [{"input_ids": np.array([7, 8]), "token_type_ids": np.array([0, 1])}]
    rows += [{"input_ids": np.array([5]), "token_type_ids": np.array([0])}]
    inputs, _ = arrange(rows, Layout(), SimpleNamespace(padding_side="right", pad_token_id=1, pad_token_type_id=3))
    assert inputs["token_type_ids"].tolist() == [[0, 1], [0, 3]]
    assert inputs["input_ids"].tolist() == [[7, 8], [5, 1]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_real_token_equal_to_the_padding_token_is_attended_to(side):
    """GPT-2 pads with its end token, which also ends texts: a mask made from ids would hide it."""
    rows = [{"input_ids": np.array([7, 50, 50])}, {"input_ids": np.array([50])}]
    inputs, counts = arrange(rows, Layout(), SimpleNamespace(padding_side=side, pad_token_id=50, pad_token_type_id=0))
    assert inputs["attention_mask"].sum(1).tolist() == [3, 1]
    assert (inputs["input_ids"] != 50).sum() == 1, "a mask from ids would have had one token in all"
    assert counts["num_tokens"] == 4


def test_counts_are_those_of_the_rows():
    lengths = [3, 9, 1, 9]
    _, padded = arrange(rows_of(lengths), Layout(), tiny.tokenizer())
    assert padded == {"num_examples": 4, "num_tokens": 22, "executed_tokens": 36, "sum_squares": 9 + 81 + 1 + 81,
                      "longest": 9}  # fmt: skip
    _, fixed = arrange(rows_of(lengths), Layout("max_length", 16), tiny.tokenizer())
    assert fixed == padded | {"executed_tokens": 64}
    assert all(type(count) is int for count in (*padded.values(), *fixed.values())), "host integers: nothing is read back"


def test_rows_are_left_as_they_were():
    """The rows are views of one memory-mapped array: writing into them would change the data set."""
    rows = rows_of([3, 5])
    copies = [row["input_ids"].copy() for row in rows]
    inputs, _ = arrange(rows, Layout(), tiny.tokenizer())
    inputs["input_ids"].zero_()
    assert all((row["input_ids"] == copy).all() for row, copy in zip(rows, copies, strict=True))


def test_a_batch_moves_with_everything_it_has():
    inputs, counts = arrange(rows_of([3, 5]), Layout(), tiny.tokenizer())
    batch = Batch(inputs, {"labels": torch.tensor([0, 1])}, num_items=2, **counts, keys=[(0, 4), (0, 2)])
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in (*moved.inputs.values(), *moved.targets.values())} == {"meta"}
    assert (moved.keys, moved.num_items, moved.num_tokens) == (batch.keys, 2, 8)
    assert batch.inputs["input_ids"].device.type == "cpu"
