"""What tasks on preferences have in common: data, sample, figures. Next: reward.py and dpo.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from engine.data.batch import Batch
from engine.data.tables import names_of_rows
from engine.data.taken import HubData, TakenModel
from engine.task import Examples
from tasks.language.scratch import small_gpt2
from tasks.options import PreferenceOptions
from tasks.preferences.encoded import encoded
from tasks.preferences.metrics import PreferenceMetrics, PreferenceMistakes
from tasks.preferences.rows import Preference, all_texts, preferences_of
from tasks.samples.preferences import preferences
from tasks.text import TextTask

if TYPE_CHECKING:
    from datasets import Dataset

P = TypeVar("P", bound=PreferenceOptions)
SAMPLE_ROWS = {"train": (4000, 1), "eval": (500, 2)}  # preferences generated, and the seed of each split


class OnPreferences(TextTask[P]):
    """Rows of a prompt, a better and a worse answer. A subclass says with ``margins`` by how much the better one is ahead."""

    hub_data = HubData("trl-lib/ultrafeedback_binarized", eval="test")
    hub_model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    best_metric = "accuracy"
    one_text = False

    def __init__(self, options: P, source: Any):
        super().__init__(options, source)
        self.corpus: Sequence[str] = ()  # of the training data: what a tokenizer is made from when there is no checkpoint
        self._held_out: dict[str, tuple[Dataset, list[Preference]]] = {}

    @property
    def prompt_column(self) -> str | None:
        """None: both answers begin with the prompt, as in the task's own data."""
        o = self.options
        names = o.prompt_column, o.chosen_column, o.rejected_column
        is_own = self.source.is_own and names == ("prompt", "chosen", "rejected")
        return None if is_own or o.prompt_column == "none" else o.prompt_column

    def columns(self) -> list[str]:
        answers = [self.options.chosen_column, self.options.rejected_column]
        return [self.prompt_column, *answers] if self.prompt_column else answers

    def way_in(self, found: Any) -> str:
        is_without = self.prompt_column not in (None, *found) and {"chosen", "rejected"} <= set(found)
        return "--prompt-column none, if both answers begin with the prompt" if is_without else ""

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Generated preferences, as conversations."""
        from datasets import Dataset

        tables = {split: Dataset.from_list(preferences(*each)) for split, each in SAMPLE_ROWS.items()}
        return tables, "embedded sample (synthetic preferences made by this project, version 1)"

    def substitute(self) -> TakenModel | None:
        """A small model with random weights, and a tokenizer made from the training data."""
        return TakenModel(*small_gpt2(self.corpus)) if self.corpus else None

    def examples(self) -> dict[str, Examples]:
        tables = self.splits_to_make()
        answers = self.options.chosen_column, self.options.rejected_column
        rows = {split: preferences_of(table, self.prompt_column, answers, f"{split} data") for split, table in tables.items()}
        self.corpus = all_texts(rows.get("train", ()))
        found: dict[str, Examples] = {}
        for split, table in tables.items():
            name = names_of_rows(table)
            found[split], kept = encoded(rows[split], self.tokenizer, self.max_length, f"{split} data", name)
            if split != "train":
                self._held_out[split] = table, [rows[split][i] for i in kept]
        return found

    def build_model(self) -> nn.Module:
        """Without dropout, as TRL trains them: what it does to one of two answers would be taken for a preference."""
        model: nn.Module = super().build_model()  # type: ignore[safe-super]  # a subclass has another base that builds it
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    def margins(self, outputs: Any, batch: Batch) -> Tensor:
        """[B] float32."""
        raise NotImplementedError

    def metrics(self, split: str) -> PreferenceMetrics:
        return PreferenceMetrics(self.margins)

    def review(self, split: str) -> PreferenceMistakes:
        return PreferenceMistakes(*self._held_out[split], self.margins)
