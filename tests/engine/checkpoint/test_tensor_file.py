"""safetensors files written a tensor at a time: the library's bytes, torch's reader, and rows that are read alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch.distributed.checkpoint import HuggingFaceStorageReader, load

from engine.checkpoint.store import write_synced
from engine.checkpoint.tensor_file import NAMES, TensorFile, Tensors, pieces


def content() -> dict[str, torch.Tensor]:
    """Every type that is kept, names in no order, no elements, no dimensions, and not contiguous."""
    generator = torch.Generator().manual_seed(0)
    found = {f"z.{dtype}": torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for dtype in reversed(NAMES)}
    odd = {
        "b": torch.randn(4, 6, generator=generator).t(),
        "a//step": torch.tensor(7.0),
        "empty": torch.empty(0, 3),
        "ü": torch.ones(2),
    }
    return found | odd


def test_the_bytes_are_the_librarys(tmp_path):
    tensors = content()
    expected = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert b"".join(pieces(TensorFile(tensors))) == expected
    assert b"".join(pieces(TensorFile({}))) == safetensors.torch.save({})
    entry = write_synced(tmp_path / "file", TensorFile(tensors))
    assert entry == write_synced(tmp_path / "same", expected) and (tmp_path / "file").read_bytes() == expected


def test_a_type_that_is_not_kept_is_refused():
    with pytest.raises(ValueError, match=r"w is torch.complex64, which a checkpoint does not keep"):
        list(pieces(TensorFile({"w": torch.ones(2, dtype=torch.complex64)})))


def sharded(folder: Path, size: int = 3) -> tuple[dict[str, torch.Tensor], list[Path]]:
    """Tensors cut as fully_shard cuts them, and their files; the first rank alone has what is not cut."""
    full = {"w": torch.randn(7, 4), "short": torch.randn(2, 2), "bias": torch.randn(5), "step": torch.tensor(3.0)}
    paths = []
    for rank in range(size):
        tensors, first_rows = {}, {}
        for name in ("w", "short", "bias"):
            each = -(-len(full[name]) // size)
            first = min(rank * each, len(full[name]))
            if len(rows := full[name][first : first + each]):
                tensors[name], first_rows[name] = rows, first
        if rank == 0:
            tensors["step"], first_rows["step"] = full["step"], 0
        paths.append(folder / f"part-{rank}.safetensors")
        write_synced(paths[-1], TensorFile(tensors, first_rows))
    return full, paths


def test_parts_are_read_as_one_and_any_rows_alone(tmp_path):
    full, paths = sharded(tmp_path)
    with Tensors(reversed(paths)) as tensors:
        assert tensors.shapes == {name: tuple(tensor.shape) for name, tensor in full.items()}
        for name, tensor in full.items():
            assert torch.equal(tensors.full(name), tensor)
            for first in range(len(tensor) if tensor.dim() else 0):
                for last in range(first + 1, len(tensor) + 1):
                    assert torch.equal(tensors.rows(name, first, last), tensor[first:last])


def test_torch_reads_the_parts_too(tmp_path):
    """The header says where each part begins in the words of torch.distributed.checkpoint; no index, no pickle."""
    full, _ = sharded(tmp_path)
    found = {name: torch.zeros_like(tensor) for name, tensor in full.items()}
    load(found, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in full.items())


@pytest.mark.parametrize("missing", [0, 1])
def test_parts_that_make_up_no_whole_are_refused(tmp_path, missing):
    _, paths = sharded(tmp_path)
    del paths[missing]
    with pytest.raises(ValueError, match=r"the parts of \w+ do not make up a whole"):
        Tensors(paths)


def test_parts_of_different_kinds_are_refused(tmp_path):
    _, paths = sharded(tmp_path)
    paths[1].unlink()
    write_synced(paths[1], TensorFile({"w": torch.ones(3, 5)}, {"w": 3}))
    with pytest.raises(ValueError, match="the parts of w are of different kinds"):
        Tensors(paths)


def test_the_offsets_stand_in_the_header(tmp_path):
    _, paths = sharded(tmp_path)
    with safe_open(paths[1], framework="pt") as opened:
        offsets = json.loads(opened.metadata()["DCP_SHARDING_INFO"])
    assert offsets["w"] == {"saved_offsets": [3, 0]} and offsets["bias"] == {"saved_offsets": [2]}
