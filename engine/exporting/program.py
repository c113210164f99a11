"""A model written as one graph, and called again as the model is: ONNX for onnxruntime, or a program of torch.export.

Both take ``input_ids``, ``attention_mask`` and, where the tokenizer has them, ``token_type_ids``: [B, T] int64, of any B and T.
Next: compare.py.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from engine import atomic
from engine.errors import ModelError, UsageError
from engine.installed import install
from engine.model.key_value_cache import keep_for_generate

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
MOST_BYTES = 1_500_000_000  # of weights within model.onnx, which can hold 2 GB; larger ones lie beside it
TARGETS = "target_index"  # of a batch: the tokens whose outputs are read (model/target_logits.py); a program gives all
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Called:
    """A program that is called as a model of transformers is, with names, and gives outputs by name."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]):
        self.inputs, self.outputs = list(inputs), list(outputs)

    def __call__(self, **inputs: Tensor) -> SimpleNamespace:
        found = dict(zip(self.outputs, self.run([inputs[name] for name in self.inputs]), strict=True))
        if (index := inputs.get(TARGETS)) is not None:
            found = {name: each.flatten(0, 1).index_select(0, index)[None] for name, each in found.items()}
        return SimpleNamespace(**found)

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        raise NotImplementedError


class OnnxCalled(Called):
    """By onnxruntime, on the CPU, with as many threads as torch has."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__(inputs, outputs)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        found = self.session.run(self.outputs, dict(zip(self.inputs, (each.numpy() for each in inputs), strict=True)))
        return [torch.from_numpy(each) for each in found]


class TorchCalled(Called):
    """Read again from its file."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__(inputs, outputs)
        self.program = torch.export.load(path).module()

    def run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.inference_mode():
            return self.program(*inputs)  # type: ignore[no-any-return]


class Flat(nn.Module):
    """The model with tensors in and out."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]):
        super().__init__()
        self.model, self.outputs = model, list(outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return tuple(found[name] for name in self.outputs)


def require_packages(kind: str) -> None:
    """Raises UsageError with the command that installs what is missing."""
    needed = ("onnx", "onnxruntime", "onnxscript") if kind == "onnx" else ()
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(f"--format onnx needs the package {missing[0]}, which is not installed: {install('export')}")


def write(kind: str, model: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], folder: Path) -> Called:
    """The model as a file in the folder, and that file, read again. ``inputs``: two rows or more. Raises ModelError."""
    names = [name for name in INPUTS if name in inputs]
    if other := sorted(set(inputs) - {*names, TARGETS}):
        raise ModelError(f"the model reads {other[0]}, and what is exported reads {', '.join(INPUTS)}: it is not exported")
    flat, given = Flat(model, outputs).eval(), tuple(inputs[name] for name in names)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in names)
    path = folder / FILES[kind]
    keep_for_generate(model)  # what a decoder keeps of what it has read is no output of a graph
    try:
        with silent():
            if kind == "torch":
                torch.export.save(torch.export.export(flat, given, dynamic_shapes=dynamic, strict=False), path)
                return TorchCalled(path, names, outputs)
            size = sum(each.nbytes for each in model.state_dict().values())
            torch.onnx.export(
                flat, given, path, dynamo=True, verbose=False, input_names=names, output_names=list(outputs),
                dynamic_shapes=dynamic, external_data=size > MOST_BYTES,
            )  # fmt: skip
            return OnnxCalled(path, names, outputs)
    except OSError:
        raise
    except Exception as error:  # torch's exporters raise a dozen kinds
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{type(model).__name__} cannot be exported as {kind}: {type(error).__name__}: {lines[0][:200]} "
            "(--debug shows where)"
        ) from error


def quantise(folder: Path, called: Called) -> Called:
    """The ONNX file with weights in 8 bits, in place: of matrix products, whose other side is quantised when it is computed."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path, small = folder / FILES["onnx"], folder / "int8.onnx"
    is_large = (folder / "model.onnx.data").exists()
    with silent():
        quantize_dynamic(path, small, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=is_large)
    if not any(node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul") for node in onnx.load(small).graph.node):
        raise ModelError("--int8: onnxruntime found no matrix product in the model that it can compute in 8 bits: leave it out")
    for old in (path, folder / "model.onnx.data"):
        old.unlink(missing_ok=True)
    atomic.move(small, path)
    return OnnxCalled(path, called.inputs, called.outputs)


@contextmanager
def silent() -> Iterator[None]:
    """Neither warnings nor logs: what is wrong raises, and the rest is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
