"""What Trainer would read off a model: decay groups, and what it does with ``num_items_in_batch``. This part imports torch.

The groups are those of Trainer's own function, on the real architecture without its weights (torch's meta device). What the
class's loss does is measured on a small copy with random weights: its loss, without ``num_items_in_batch`` and with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError, UsageError

CAUSAL = "ForCausalLM"


@dataclass(frozen=True)
class ModelFacts:
    """``name``: the class. ``task``: of ours that learns with it; "" for none. ``dtype``: of the checkpoint's weights.

    ``takes_count``: Trainer hands it ``num_items_in_batch``. ``divides``: its loss is divided by that count; None: not known,
    ``why``. ``uncounted``: targets that the loss has fewer than Trainer counts, for each row. ``has_labels``: the batch has a
    column "labels", which Trainer counts. ``is_token_loss``: items are tokens. ``decayed``, ``spared``: (tensors, parameters).
    ``decayed_vectors``: vectors (of norms, say) that are decayed all the same: neither their class nor their name spares them.
    """

    name: str
    task: str
    dtype: str
    num_parameters: int
    takes_count: bool
    divides: bool | None
    why: str
    uncounted: int
    has_labels: bool
    is_token_loss: bool
    decayed: tuple[int, int]
    spared: tuple[int, int]
    decayed_vectors: tuple[str, ...]

    @property
    def accumulates_by(self) -> str:
        """``items``: one division by the items of the step, right. ``means``: a mean of the micro-batches' means.

        ``times``: the micro-batches' means are added and nobody divides. "": not known.
        """
        if not self.takes_count or not self.has_labels:
            return "means"
        return "" if self.divides is None else "items" if self.divides else "times"


TASKS = {  # how a class ends: task of ours, are items tokens, is there a column "labels"
    "ForSequenceClassification": ("classification", False, True),
    "ForTokenClassification": ("ner", True, True),
    "ForQuestionAnswering": ("qa", False, False),
    "ForMaskedLM": ("mlm", True, True),
    "ForImageClassification": ("image-classification", False, True),
    "ForCausalLM": ("clm", True, True),
    "LMHeadModel": ("clm", True, True),
    "ForConditionalGeneration": ("seq2seq", True, True),
    "ForSeq2SeqLM": ("seq2seq", True, True),
    "ForMultipleChoice": ("", False, True),
    "ForImageTextToText": ("captioning", True, True),
    "ForVision2Seq": ("captioning", True, True),
    "EncoderDecoderModel": ("seq2seq", True, True),
}


def kind_of(name: str) -> tuple[str, bool, bool]:
    """The row of TASKS for a class, Auto class or not; ("", False, True) if there is none."""
    for end, found in TASKS.items():
        if name.endswith(end):
            return ("captioning", True, True) if name.startswith("Git") and found[0] == "clm" else found
    return "", False, True


def look_at(model: str, model_class: str) -> ModelFacts:
    """``model``: a directory, or a name of the Hub that is cached. ``model_class``: of transformers; "": the config's own.

    Raises UsageError, ModelError.
    """
    import torch
    import transformers

    from engine.console import quiet_libraries

    quiet_libraries()
    try:
        config = transformers.AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model {model}: no config.json of a model can be read there, and none is cached ({first(error)})"
        ) from error
    kind = class_for(config, model_class, model)
    try:
        with torch.device("meta"):
            whole = kind._from_config(config)
    except Exception as error:  # whatever a class does with the configuration of another kind
        raise ModelError(f"--model {model}: {kind.__name__} cannot be made from its config.json ({first(error)})") from error
    spared, decayed = groups(whole)
    sizes = dict(whole.named_parameters())
    _, is_token_loss, has_labels = kind_of(kind.__name__)
    takes_count, divides, why, uncounted = takes(whole), None, "", 0
    if takes_count and has_labels:
        divides, why, uncounted = measured(kind, whole)
    return ModelFacts(
        kind.__name__, kind_of(kind.__name__)[0], str(getattr(config, "dtype", None) or "").removeprefix("torch."),
        sum(p.numel() for p in sizes.values()), takes_count, divides, why, uncounted, has_labels, is_token_loss,
        (len(decayed), sum(sizes[name].numel() for name in decayed)),
        (len(spared), sum(sizes[name].numel() for name in spared)),
        tuple(name for name in decayed if sizes[name].dim() == 1),
    )  # fmt: skip


def class_for(config: Any, model_class: str, model: str) -> Any:
    """The class that is trained. Raises UsageError."""
    import transformers

    name = model_class or next(iter(getattr(config, "architectures", None) or ()), "")
    if not name:
        raise UsageError(
            f"--model {model}: its config.json names no class: give --model-class, such as BertForSequenceClassification"
        )
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UsageError(f"--model-class {name}: transformers {transformers.__version__} has no class of that name")
    if name.startswith("AutoModel"):
        if type(config) not in kind._model_mapping:
            raise UsageError(
                f"--model-class {name}: there is none for a {config.model_type}; give the class itself, or another --model"
            )
        kind = kind._model_mapping[type(config)]
        kind = kind[0] if isinstance(kind, tuple) else kind
    if not hasattr(kind, "_from_config"):
        raise UsageError(f"--model-class {name} is no model of transformers: give one such as BertForSequenceClassification")
    return kind


def groups(model: Any) -> tuple[list[str], list[str]]:
    """Names of the trained parameters without and with weight decay, by Trainer's own function."""
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(None, model))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name in names if name not in decayed], [name for name in names if name in decayed]


def takes(model: Any) -> bool:
    """Does Trainer hand ``num_items_in_batch`` to the model? Its own test (``model_accepts_loss_kwargs``)."""
    if hasattr(model, "accepts_loss_kwargs"):
        return bool(model.accepts_loss_kwargs)
    parameters = inspect.signature(model.forward).parameters.values()
    return any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def measured(kind: Any, whole: Any) -> tuple[bool | None, str, int]:
    """Does the class's loss divide by the count? None, and why, if a small copy could not be asked.

    And the targets that its loss has fewer than Trainer counts, for each row.
    """
    import torch
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            small, batch = small_model(kind, whole.config)
            labels, count = batch["labels"], 1000.0
            mean = float(small(**batch).loss)
            divided = float(small(**batch, num_items_in_batch=torch.tensor(count)).loss)
    except Exception as error:  # a model that wants other inputs than these
        return None, f"{kind.__name__} was not measured: {first(error)}", 0
    if divided == mean:
        return False, "", 0
    targets = divided * count / mean  # that the loss is a sum over
    shifts = LOSS_MAPPING.get(getattr(whole, "loss_type", None)) is ForCausalLMLoss and not whole.config.is_encoder_decoder
    counted = int(labels[..., 1:].ne(-100).sum() if shifts else labels.ne(-100).sum())
    return True, "", round((counted - targets) / len(labels))


def small_model(kind: Any, config: Any) -> tuple[Any, dict[str, Any]]:
    """A small copy with random weights, and a batch of two rows with labels."""
    import copy

    import torch

    from bench.architectures.shrink import shrunk

    fields = config.to_dict()
    labels = min(len(config.id2label), 3)
    small_config = type(config)(**(shrunk(fields) if getattr(config, "vocab_size", None) else copy.deepcopy(fields)))
    small_config.num_labels = max(labels, 2)
    small_config.problem_type = None
    if not getattr(config, "vocab_size", None):
        small_config.num_hidden_layers = 2
    for token in ("pad_token_id", *(["decoder_start_token_id"] if small_config.is_encoder_decoder else [])):
        if not isinstance(getattr(small_config, token, None), int):
            setattr(small_config, token, 0)
    small = kind(small_config).eval()
    name, is_token_loss = kind.__name__, kind_of(kind.__name__)[1]
    vision = small_config if not getattr(config, "vocab_size", None) else getattr(small_config, "vision_config", None)
    size = getattr(vision, "image_size", None)
    batch: dict[str, Any] = {}
    if getattr(small_config, "vocab_size", None):
        batch["input_ids"] = torch.randint(5, 60, (2, 3, 6) if name.endswith("ForMultipleChoice") else (2, 6))
    if size:
        batch["pixel_values"] = torch.randn(2, getattr(vision, "num_channels", 3), size, size)
    if not batch:
        raise ValueError(f"what {name} reads is not known here")
    batch["labels"] = batch["input_ids"].clone() % small_config.num_labels if name.endswith("ForTokenClassification") else (
        batch["input_ids"].clone() if is_token_loss else torch.tensor([0, 1])
    )  # fmt: skip
    return small, batch


def first(error: BaseException) -> str:
    """The first line of what it says."""
    lines: Sequence[str] = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
