"""Twelve configurations of public tutorials: their figures only, each under the tutorial's name, written down here by hand.

``findings``: rows of docs/what-trainer-hides.md that have to be told, and ``absent``: some that must not. ``numbers`` are worked out
by hand for the rows of training data that the tutorial has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """``kind``: the class that is called; ``model``: the class that is trained; ``rows``: of its training data."""

    source: str
    model: str
    rows: int
    arguments: dict[str, Any]
    findings: set[int]
    absent: set[int]
    batch: int
    steps: int
    warmup: int = 0
    kind: str = "TrainingArguments"
    refused: set[str] = field(default_factory=set)  # words of why it does not start today
    in_command: tuple[str, ...] = ()


CONFIGURATIONS = {
    "course": Configuration(
        "Hugging Face course, chapter 3: MRPC with BERT", "BertForSequenceClassification", 3_668,
        {"output_dir": "test-trainer", "eval_strategy": "epoch"},
        {1, 8, 12, 21, 22, 32, 33, 36, 42, 50, 58}, {20, 23, 24, 28, 31}, batch=8, steps=1_377,
        in_command=("--learning-rate 5e-05", "--weight-decay 0", "--precision fp32", "--eval-batch-size 8", "--batch-size 8"),
    ),
    "text-classification": Configuration(
        "transformers guide, text classification: IMDb with DistilBERT", "DistilBertForSequenceClassification", 25_000,
        {"output_dir": "my_awesome_model", "learning_rate": 2e-5, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16,
         "num_train_epochs": 2, "weight_decay": 0.01, "eval_strategy": "epoch", "save_strategy": "epoch",
         "load_best_model_at_end": True, "push_to_hub": True},
        {20, 33, 49, 51, 32}, {21, 23, 28, 50}, batch=16, steps=3_126,
        in_command=("--epochs 2", "--eval-batch-size 16", "--output-dir my_awesome_model"),
    ),
    "token-classification": Configuration(
        "transformers guide, token classification: WNUT 17 with DistilBERT", "DistilBertForTokenClassification", 3_394,
        {"output_dir": "my_awesome_wnut_model", "learning_rate": 2e-5, "per_device_train_batch_size": 16,
         "per_device_eval_batch_size": 16, "num_train_epochs": 2, "weight_decay": 0.01, "evaluation_strategy": "epoch",
         "save_strategy": "epoch", "load_best_model_at_end": True, "push_to_hub": True},
        {20, 32, 45, 47, 49}, {28, 50}, batch=16, steps=426, refused={"evaluation_strategy"}, in_command=("--task ner", "--epochs 2"),
    ),
    "question-answering": Configuration(
        "transformers guide, question answering: SQuAD with DistilBERT", "DistilBertForQuestionAnswering", 4_000,
        {"output_dir": "my_awesome_qa_model", "eval_strategy": "epoch", "learning_rate": 2e-5, "per_device_train_batch_size": 16,
         "per_device_eval_batch_size": 16, "num_train_epochs": 3, "weight_decay": 0.01, "push_to_hub": True},
        {20, 50, 58}, {21, 28, 32, 42}, batch=16, steps=750, in_command=("--task qa",),
    ),
    "masked-language-modelling": Configuration(
        "transformers guide, masked language modelling: ELI5 with DistilRoBERTa", "RobertaForMaskedLM", 8_000,
        {"output_dir": "my_awesome_eli5_mlm_model", "eval_strategy": "epoch", "learning_rate": 2e-5, "num_train_epochs": 3,
         "weight_decay": 0.01, "push_to_hub": True},
        {20, 45, 50}, {28, 32}, batch=8, steps=3_000, in_command=("--task mlm", "--eval-batch-size 8"),
    ),
    "summarization": Configuration(
        "transformers guide, summarization: BillSum with T5", "T5ForConditionalGeneration", 989,
        {"output_dir": "my_awesome_billsum_model", "eval_strategy": "epoch", "learning_rate": 2e-5, "per_device_train_batch_size": 16,
         "per_device_eval_batch_size": 16, "weight_decay": 0.01, "save_total_limit": 3, "num_train_epochs": 4,
         "predict_with_generate": True, "fp16": True, "push_to_hub": True},
        {20, 26, 32, 35, 40, 45}, {7, 8, 28, 57}, batch=16, steps=248, kind="Seq2SeqTrainingArguments",
        in_command=("--task seq2seq", "--precision fp16", "--keep-checkpoints 3", "--epochs 4"),
    ),
    "image-classification": Configuration(
        "transformers guide, image classification: Food-101 with ViT", "ViTForImageClassification", 4_000,
        {"output_dir": "my_awesome_food_model", "remove_unused_columns": False, "evaluation_strategy": "epoch",
         "save_strategy": "epoch", "learning_rate": 5e-5, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
         "per_device_eval_batch_size": 16, "num_train_epochs": 3, "warmup_ratio": 0.1, "logging_steps": 10,
         "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "push_to_hub": True},
        {21, 23, 24, 31, 32, 49}, {9, 28, 58}, batch=64, steps=189, warmup=19, refused={"evaluation_strategy", "warmup_ratio"},
        in_command=("--task image-classification", "--accumulation-steps 4", "--warmup-ratio 0.1", "--best-metric accuracy"),
    ),
    "image-captioning": Configuration(
        "transformers guide, image captioning: Pokemon with GIT", "GitForCausalLM", 749,
        {"output_dir": "git-base-pokemon", "learning_rate": 5e-5, "num_train_epochs": 50, "fp16": True,
         "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32, "gradient_accumulation_steps": 2,
         "save_total_limit": 3, "eval_strategy": "steps", "eval_steps": 50, "save_strategy": "steps", "save_steps": 50,
         "logging_steps": 50, "remove_unused_columns": False, "push_to_hub": True, "label_names": ["labels"],
         "load_best_model_at_end": True},
        {21, 31, 26, 40, 49}, {9, 28, 48}, batch=64, steps=600,
        in_command=("--task captioning", "--epochs 50", "--eval-steps 50", "--save-steps 50", "--log-steps 50"),
    ),
    "codeparrot": Configuration(
        "Hugging Face course, chapter 7: a causal language model from scratch (codeparrot-ds) with GPT-2", "GPT2LMHeadModel", 100_000,
        {"output_dir": "codeparrot-ds", "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32,
         "evaluation_strategy": "steps", "eval_steps": 5_000, "logging_steps": 5_000, "gradient_accumulation_steps": 8,
         "num_train_epochs": 1, "weight_decay": 0.1, "warmup_steps": 1_000, "lr_scheduler_type": "cosine", "learning_rate": 5e-4,
         "save_steps": 5_000, "fp16": True, "push_to_hub": True},
        {20, 23, 26, 30, 31, 45, 48, 58}, {24, 28}, batch=256, steps=391, warmup=1_000, refused={"evaluation_strategy"},
        in_command=("--task clm", "--warmup-steps 1000", "--schedule cosine", "--weight-decay 0.1", "--epochs 1"),
    ),
    "alpaca-lora": Configuration(
        "alpaca-lora, finetune.py at its defaults: LLaMA with LoRA", "LlamaForCausalLM", 49_759,
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 32, "warmup_steps": 100, "num_train_epochs": 3,
         "learning_rate": 3e-4, "fp16": True, "logging_steps": 10, "optim": "adamw_torch", "evaluation_strategy": "steps",
         "save_strategy": "steps", "eval_steps": 200, "save_steps": 200, "output_dir": "lora-alpaca", "save_total_limit": 3,
         "load_best_model_at_end": True, "group_by_length": False},
        {21, 22, 23, 26, 31, 32, 48}, {18, 28, 30}, batch=128, steps=1_167, warmup=100,
        refused={"evaluation_strategy", "group_by_length"},
        in_command=("--batch-size 4", "--accumulation-steps 32", "--warmup-steps 100", "--eval-steps 200"),
    ),
    "autotrain": Configuration(
        "AutoTrain, a published image classification run: Food-101 with ViT", "ViTForImageClassification", 4_000,
        {"learning_rate": 5e-5, "num_train_epochs": 3, "per_device_train_batch_size": 8, "warmup_ratio": 0.1,
         "gradient_accumulation_steps": 1, "optim": "adamw_torch", "lr_scheduler_type": "linear", "weight_decay": 0.0,
         "max_grad_norm": 1.0, "seed": 42, "auto_find_batch_size": False, "fp16": True, "save_total_limit": 1,
         "evaluation_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        {21, 22, 23, 24, 26, 33, 57}, {28, 32, 59}, batch=8, steps=1_500, warmup=150, refused={"evaluation_strategy", "warmup_ratio"},
        in_command=("--keep-checkpoints 1", "--batch-size 8"),
    ),
    "sft-qlora": Configuration(
        "Rearchitecting LLMs, listing 7.11: supervised fine-tuning with QLoRA", "Qwen2ForCausalLM", 1_000,
        {"output_dir": "./qlora_output", "num_train_epochs": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
         "learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 7, "fp16": False, "bf16": True, "logging_steps": 10,
         "save_strategy": "no", "max_length": 512, "dataset_text_field": "text", "report_to": "none"},
        {21, 23, 33, 40}, {7, 8, 28}, batch=8, steps=375, warmup=7, kind="SFTConfig",
        in_command=("--task sft", "--schedule cosine", "--warmup-steps 7", "--precision bf16"),
    ),
}  # fmt: skip


def as_script(configuration: Configuration) -> str:
    """A script that calls the class with these arguments, as the tutorial does."""
    package = "trl" if configuration.kind == "SFTConfig" else "transformers"
    arguments = "".join(f"    {name}={value!r},\n" for name, value in configuration.arguments.items())
    return f"from {package} import {configuration.kind}\n\ntraining_args = {configuration.kind}(\n{arguments})\n"
