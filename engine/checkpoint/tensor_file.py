"""safetensors files, a tensor at a time: written without a copy of the whole, and read in the parts that are needed.

safetensors.torch.save_file would bring all tensors to the CPU before it writes, and leave the hash to a second reading. The
bytes written here are the same (a test compares them). A file may hold one rank's rows of tensors that are spread over the
ranks; its header then says where they begin, in the words of torch.distributed.checkpoint, whose HuggingFaceStorageReader
reads these files, too.
Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the tensors' bytes).
Next: store.py, which writes and verifies whole checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from engine.checked import parse_object

OFFSETS = "DCP_SHARDING_INFO"  # the key under which torch.distributed.checkpoint keeps where each part begins
NAMES = {  # as the safetensors library orders them: the widest come first in a file, and so all are aligned
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
ORDER = list(NAMES)


@dataclass(frozen=True)
class TensorFile:
    """What a file is to hold. ``first_rows``: of one rank's parts, where in the full tensor each begins; None: all is full."""

    tensors: Mapping[str, Tensor]
    first_rows: Mapping[str, int] | None = None


def pieces(content: TensorFile) -> Iterator[bytes | memoryview]:
    """The bytes of the file, one tensor at a time brought to the CPU. Raises ValueError for a type that is not kept."""
    tensors = content.tensors
    if odd := [name for name, tensor in tensors.items() if tensor.dtype not in NAMES]:
        raise ValueError(f"{odd[0]} is {tensors[odd[0]].dtype}, which a checkpoint does not keep")
    names = sorted(tensors, key=lambda name: (-ORDER.index(tensors[name].dtype), name))
    header: dict[str, Any] = {}
    if content.first_rows is not None:
        offsets = {
            n: {"saved_offsets": [content.first_rows[n]] + [0] * (tensors[n].dim() - 1)} for n in names if tensors[n].dim()
        }
        offsets |= {n: {"saved_offsets": []} for n in names if not tensors[n].dim()}
        header["__metadata__"] = {OFFSETS: json.dumps(offsets)}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield memoryview(tensors[name].detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


class Part(NamedTuple):
    """Rows ``first`` to ``last`` of a tensor, and the opened file that holds them."""

    first: int
    last: int
    opened: Any


class Tensors:
    """The tensors of some files, by name, as one; a context, in which the files are open.

    ``shapes``: those of the full tensors. Raises ValueError if the parts of a tensor do not make up a whole.
    """

    def __init__(self, paths: Iterable[Path]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._parts: dict[str, list[Part]] = {}
        self._files = ExitStack()
        with ExitStack() as opening:
            for path in paths:
                self._add(opening.enter_context(safe_open(path, framework="pt")))
            self._files = opening.pop_all()
        for name, parts in self._parts.items():
            self._join(name, parts)

    def _add(self, opened: Any) -> None:
        """The parts in one file; ``shapes`` has those of a part until they are joined."""
        offsets = parse_object((opened.metadata() or {}).get(OFFSETS, "{}"))
        for name in opened.keys():  # noqa: SIM118 - it is no dictionary
            part = opened.get_slice(name)
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
            first = offsets[name]["saved_offsets"][0] if shape and name in offsets else 0
            if (self.shapes.setdefault(name, shape)[1:], self.dtypes.setdefault(name, dtype)) != (shape[1:], dtype):
                raise ValueError(f"the parts of {name} are of different kinds")
            self._parts.setdefault(name, []).append(Part(first, first + (shape[0] if shape else 1), opened))

    def _join(self, name: str, parts: list[Part]) -> None:
        parts.sort(key=lambda part: part[:2])
        ends = [0, *(part.last for part in parts)]
        if [part.first for part in parts] != ends[:-1]:
            raise ValueError(f"the parts of {name} do not make up a whole: {[part[:2] for part in parts]}")
        if self.shapes[name]:
            self.shapes[name] = (ends[-1], *self.shapes[name][1:])

    def full(self, name: str) -> Tensor:
        """The full tensor, on the CPU."""
        if len(self._parts[name]) == 1:
            tensor: Tensor = self._parts[name][0].opened.get_tensor(name)
            return tensor
        return self.rows(name, 0, self.shapes[name][0])

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last`` of a tensor, [last - first, ...] on the CPU; nothing else is read."""
        found = [
            part.opened.get_slice(name)[max(first, part.first) - part.first : min(last, part.last) - part.first]
            for part in self._parts[name]
            if max(first, part.first) < min(last, part.last)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()
