"""What /metrics says, in Prometheus's form: requests, how long they take, how many are computed together, what is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from torch import Tensor, nn

from engine.console import note

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
MOST_LABELS = 1000  # further ones count as OTHER: each is a series of its own
OTHER = "(other)"
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each figure would have its birthday beside it
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files

        def counter(name: str, what: str, *by: str) -> Counter:
            return Counter(f"plainloop_{name}", what, by, registry=self.registry)

        def histogram(name: str, what: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"plainloop_{name}", what, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests answered, by path and status", "path", "status")
        self.seconds = histogram(
            "request_seconds", "Seconds from a request's head to the end of its answer, of /predict", SECONDS
        )
        self.batches = histogram("batch_inputs", "Inputs that were computed together", SIZES)
        self.joined = histogram("batch_requests", "Requests that were computed together", SIZES)
        self.computing = histogram("batch_seconds", "Seconds that a batch was computed", SECONDS)
        self.tokens = counter("tokens", "Tokens that the model has read or written, without padding")
        self.labels = counter("labels", "Labels predicted", "label")
        self.notes = counter("notes", "Remarks of the task, of texts that are cut or blank for example")
        self.waiting = Gauge("plainloop_waiting_inputs", "Inputs in the queue", registry=self.registry)
        self.known: set[str] = set()
        self.told: set[str] = set()

    def expect(self, labels: Sequence[str]) -> None:
        """Show these labels at 0 until they are predicted."""
        for label in labels[:MOST_LABELS]:
            self.known.add(label)
            self.labels.labels(label)

    def computed(self, inputs: int, jobs: int, seconds: float) -> None:
        """A batch has been computed."""
        self.batches.observe(inputs)
        self.joined.observe(jobs)
        self.computing.observe(seconds)

    def noted(self, notes: Sequence[str]) -> None:
        """Remarks of the task: counted, and each kind of them said once, as nobody reads one a request."""
        self.notes.inc(len(notes))
        for remark in notes:
            kind = "".join("#" if letter.isdigit() else letter for letter in remark)
            if kind not in self.told and len(self.told) < 100:
                self.told.add(kind)
                note(f"{remark} (such remarks are counted in /metrics from now on)")

    def predicted(self, predictions: Sequence[Mapping[str, Any]]) -> None:
        """Count the labels that the predictions name."""
        for prediction in predictions:
            for label in labels_in(prediction):
                if len(self.known) < MOST_LABELS:
                    self.known.add(label)
                self.labels.labels(label if label in self.known else OTHER).inc()

    def count_tokens(self, model: nn.Module) -> None:
        """Have the model say how many tokens it reads, each time it is called."""

        def count(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            ids, mask = tokens_in(kwargs), kwargs.get("attention_mask")
            if isinstance(ids, Tensor):
                is_alike = isinstance(mask, Tensor) and mask.shape == ids.shape
                self.tokens.inc(int(mask.sum()) if is_alike and mask is not None else ids.numel())

        model.register_forward_pre_hook(count, with_kwargs=True)
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):  # generate calls its encoder by itself
            model.get_encoder().register_forward_pre_hook(count, with_kwargs=True)  # type: ignore[operator]

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


def tokens_in(inputs: Mapping[str, Any]) -> Any:
    """What of a model's inputs are the ids that it reads now; those of a decoder, where it has one."""
    ids = inputs.get("decoder_input_ids")
    return inputs.get("input_ids") if ids is None else ids


def labels_in(prediction: Mapping[str, Any]) -> Iterator[str]:
    """What a prediction names under ``label``: one, several, or that of each object in its lists."""
    found = prediction.get("label")
    if isinstance(found, str | list):
        yield from [found] if isinstance(found, str) else found
    for value in prediction.values():
        if isinstance(value, list):
            yield from (each["label"] for each in value if isinstance(each, Mapping) and isinstance(each.get("label"), str))
