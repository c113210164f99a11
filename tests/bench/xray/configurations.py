"""Configurations of public tutorials: their figures only, each with the repository, the commit and the file that it stands in.

``findings``: rows of docs/what-trainer-hides.md that have to be told, and ``absent``: some that must not. ``numbers`` are worked out
by hand for the rows of training data that the tutorial has. Values that a tutorial computes stand here as they come out there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

COURSE = "huggingface/course@16af5667532d6966f0fe83f44cc848dd7698a215:chapters/en"
GUIDES = "huggingface/notebooks@5068b1142e8ed1e691c8b1e9f98e4473ebe55790:transformers_doc/en/pytorch"
BOOK = "nlp-with-transformers/notebooks@0cb211095b4622fa922f80fbdc9d83cc5d9e0c34:"
SCHMID = "philschmid/deep-learning-pytorch-huggingface@59b37973074de90004d10e5ff636f98160c9743a:training"


@dataclass(frozen=True)
class Configuration:
    """``kind``: the class that is called; ``model``: the class that is trained.

    ``rows``: of the training data, as the tutorial prints them or its split leaves them of a public set; None: a stream.
    ``in_command``: pieces of our command; None where no task of ours trains the class.
    """

    source: str  # OWNER/NAME@COMMIT:PATH
    model: str
    rows: int | None
    arguments: dict[str, Any]
    findings: set[int]
    absent: set[int]
    batch: int
    steps: int
    warmup: int = 0
    kind: str = "TrainingArguments"
    refused: set[str] = field(default_factory=set)  # words of why it does not start today
    in_command: tuple[str, ...] | None = ()


CONFIGURATIONS = {
    "course": Configuration(  # MRPC with BERT
        f"{COURSE}/chapter3/3.mdx", "BertForSequenceClassification", 3_668,
        {"output_dir": "test-trainer", "eval_strategy": "epoch"},
        {1, 8, 12, 21, 22, 32, 33, 36, 42, 50, 58}, {20, 23, 24, 28, 31, 57}, batch=8, steps=1_377,
        in_command=("--learning-rate 5e-05", "--weight-decay 0", "--precision fp32", "--eval-batch-size 8", "--batch-size 8"),
    ),
    "text-classification": Configuration(  # IMDb with DistilBERT
        f"{GUIDES}/sequence_classification.ipynb", "DistilBertForSequenceClassification", 25_000,
        {"output_dir": "my_awesome_model", "learning_rate": 2e-5, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16,
         "num_train_epochs": 2, "weight_decay": 0.01, "eval_strategy": "epoch", "save_strategy": "epoch",
         "load_best_model_at_end": True, "push_to_hub": True},
        {20, 33, 49, 51, 32}, {21, 23, 28, 50}, batch=16, steps=3_126,
        in_command=("--epochs 2", "--eval-batch-size 16", "--output-dir my_awesome_model"),
    ),
    "token-classification": Configuration(  # CoNLL-2003 with BERT
        f"{COURSE}/chapter7/2.mdx", "BertForTokenClassification", 14_041,
        {"output_dir": "bert-finetuned-ner", "evaluation_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 2e-5,
         "num_train_epochs": 3, "weight_decay": 0.01, "push_to_hub": True},
        {20, 32, 45, 47, 50, 58}, {21, 28, 49, 57}, batch=8, steps=5_268, refused={"evaluation_strategy"},
        in_command=("--task ner", "--batch-size 8"),
    ),
    "question-answering": Configuration(  # SQuAD with DistilBERT
        f"{GUIDES}/question_answering.ipynb", "DistilBertForQuestionAnswering", 4_000,
        {"output_dir": "my_awesome_qa_model", "eval_strategy": "epoch", "learning_rate": 2e-5, "per_device_train_batch_size": 16,
         "per_device_eval_batch_size": 16, "num_train_epochs": 3, "weight_decay": 0.01, "push_to_hub": True},
        {20, 50, 58}, {21, 28, 32, 42}, batch=16, steps=750, in_command=("--task qa",),
    ),
    "masked-language-modelling": Configuration(  # IMDb with DistilBERT
        f"{COURSE}/chapter7/3.mdx", "DistilBertForMaskedLM", 10_000,
        {"output_dir": "distilbert-base-uncased-finetuned-imdb", "overwrite_output_dir": True, "evaluation_strategy": "epoch",
         "learning_rate": 2e-5, "weight_decay": 0.01, "per_device_train_batch_size": 64, "per_device_eval_batch_size": 64,
         "push_to_hub": True, "fp16": True, "logging_steps": 156},
        {20, 26, 32, 35, 40, 45, 50, 58}, {7, 8, 21, 28, 30}, batch=64, steps=471,
        refused={"evaluation_strategy", "overwrite_output_dir"},
        in_command=("--task mlm", "--precision fp16", "--batch-size 64", "--log-steps 156"),
    ),
    "summarization": Configuration(  # SAMSum with PEGASUS
        f"{BOOK}06_summarization.ipynb", "PegasusForConditionalGeneration", 14_732,
        {"output_dir": "pegasus-samsum", "num_train_epochs": 1, "warmup_steps": 500, "per_device_train_batch_size": 1,
         "per_device_eval_batch_size": 1, "weight_decay": 0.01, "logging_steps": 10, "push_to_hub": True,
         "evaluation_strategy": "steps", "eval_steps": 500, "save_steps": 1e6, "gradient_accumulation_steps": 16},
        {20, 23, 28, 32, 45, 48, 50}, {21, 24, 26, 57, 58}, batch=16, steps=921, warmup=500, refused={"evaluation_strategy"},
        in_command=("--task seq2seq", "--accumulation-steps 16", "--warmup-steps 500", "--eval-steps 500", "--save-steps 1000000"),
    ),
    "image-classification": Configuration(  # Food-101 with ViT
        f"{GUIDES}/image_classification.ipynb", "ViTForImageClassification", 4_000,
        {"output_dir": "my_awesome_food_model", "remove_unused_columns": False, "eval_strategy": "epoch", "save_strategy": "epoch",
         "learning_rate": 5e-5, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
         "per_device_eval_batch_size": 16, "num_train_epochs": 3, "warmup_steps": 0.1, "logging_steps": 10, "report_to": "trackio",
         "run_name": "food101", "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "push_to_hub": True},
        {21, 23, 24, 31, 32, 49}, {9, 28, 58}, batch=64, steps=189, warmup=19,
        in_command=("--task image-classification", "--accumulation-steps 4", "--warmup-ratio 0.1", "--best-metric accuracy",
                    "--write-to trackio"),
    ),
    "image-captioning": Configuration(  # Pokemon with GIT
        f"{GUIDES}/image_captioning.ipynb", "GitForCausalLM", 749,
        {"output_dir": "git-base-pokemon", "learning_rate": 5e-5, "num_train_epochs": 50, "fp16": True,
         "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32, "gradient_accumulation_steps": 2,
         "save_total_limit": 3, "eval_strategy": "steps", "eval_steps": 50, "save_strategy": "steps", "save_steps": 50,
         "logging_steps": 50, "remove_unused_columns": False, "push_to_hub": True, "label_names": ["labels"],
         "load_best_model_at_end": True},
        {21, 31, 26, 40, 49}, {9, 28, 48, 57}, batch=64, steps=600,
        in_command=("--task captioning", "--epochs 50", "--eval-steps 50", "--save-steps 50", "--log-steps 50"),
    ),
    "codeparrot": Configuration(  # a language model from scratch, GPT-2
        f"{COURSE}/chapter7/6.mdx", "GPT2LMHeadModel", 16_702_061,
        {"output_dir": "codeparrot-ds", "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32,
         "evaluation_strategy": "steps", "eval_steps": 5_000, "logging_steps": 5_000, "gradient_accumulation_steps": 8,
         "num_train_epochs": 1, "weight_decay": 0.1, "warmup_steps": 1_000, "lr_scheduler_type": "cosine", "learning_rate": 5e-4,
         "save_steps": 5_000, "fp16": True, "push_to_hub": True},
        {20, 23, 26, 30, 31, 32, 45, 48}, {24, 28, 58}, batch=256, steps=65_243, warmup=1_000, refused={"evaluation_strategy"},
        in_command=("--task clm", "--warmup-steps 1000", "--schedule cosine", "--weight-decay 0.1", "--epochs 1"),
    ),
    "alpaca-lora": Configuration(  # LLaMA with LoRA; the values of its defaults
        "tloen/alpaca-lora@8bb8579e403dc78e37fe81ffbb253c413007323f:finetune.py", "LlamaForCausalLM", 49_760,
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 32, "warmup_steps": 100, "num_train_epochs": 3,
         "learning_rate": 3e-4, "fp16": True, "logging_steps": 10, "optim": "adamw_torch", "evaluation_strategy": "steps",
         "save_strategy": "steps", "eval_steps": 200, "save_steps": 200, "output_dir": "./lora-alpaca", "save_total_limit": 3,
         "load_best_model_at_end": True, "ddp_find_unused_parameters": None, "group_by_length": False, "report_to": None,
         "run_name": None},
        {21, 22, 23, 26, 31, 32, 48}, {18, 28, 30, 57}, batch=128, steps=1_167, warmup=100,
        refused={"evaluation_strategy", "group_by_length"},
        in_command=("--batch-size 4", "--accumulation-steps 32", "--warmup-steps 100", "--eval-steps 200"),
    ),
    "multiple-choice": Configuration(  # SWAG with BERT
        f"{GUIDES}/multiple_choice.ipynb", "BertForMultipleChoice", 73_546,
        {"output_dir": "my_awesome_swag_model", "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
         "learning_rate": 5e-5, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "num_train_epochs": 3,
         "weight_decay": 0.01, "push_to_hub": True},
        {20, 32, 47, 49, 51}, {21, 28, 45, 50}, batch=16, steps=13_791, in_command=None,
    ),
    "sft": Configuration(  # SmolLM3 on SmolTalk2
        "huggingface/smol-course@32dde01a1110fed92a03cc16316c868645a35e9f:units/en/unit1/4.md", "SmolLM3ForCausalLM", 1_000,
        {"output_dir": "./SmolLM3-Custom-SFT", "dataset_text_field": "text", "max_length": 2048, "per_device_train_batch_size": 2,
         "gradient_accumulation_steps": 2, "learning_rate": 5e-5, "num_train_epochs": 1, "max_steps": 500, "warmup_steps": 50,
         "weight_decay": 0.01, "optim": "adamw_torch", "logging_steps": 10, "save_steps": 100, "eval_steps": 100,
         "save_total_limit": 2, "dataloader_num_workers": 0, "group_by_length": True, "push_to_hub": False,
         "hub_model_id": "your-username/SmolLM3-Custom-SFT", "report_to": ["trackio"], "run_name": "SmolLM3-Custom-SFT-training"},
        {18, 20, 22, 23, 33, 54}, {7, 8, 19, 28, 48, 50, 57, 58}, batch=4, steps=500, warmup=50, kind="SFTConfig",
        refused={"group_by_length"}, in_command=("--task sft", "--max-steps 500", "--warmup-steps 50", "--batching bucketed"),
    ),
    "few-labels": Configuration(  # tags of issues, several a text, with BERT
        f"{BOOK}09_few-to-no-labels.ipynb", "BertForSequenceClassification", 223,
        {"output_dir": "./results", "num_train_epochs": 20, "learning_rate": 3e-5, "lr_scheduler_type": "constant",
         "per_device_train_batch_size": 4, "per_device_eval_batch_size": 32, "weight_decay": 0.0, "evaluation_strategy": "epoch",
         "save_strategy": "epoch", "logging_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "micro f1",
         "save_total_limit": 1, "log_level": "error"},
        {21, 22, 32, 33, 36, 49, 51, 57}, {23, 24, 28, 50, 58}, batch=4, steps=1_120, refused={"evaluation_strategy"},
        in_command=("--schedule constant", "--epochs 20", "--keep-checkpoints 1", "--best-metric 'micro f1'"),
    ),
    "flan-t5-lora": Configuration(  # SAMSum with FLAN-T5 XXL in 8 bits
        f"{SCHMID}/peft-flan-t5-int8-summarization.ipynb", "T5ForConditionalGeneration", 14_732,
        {"output_dir": "lora-flan-t5-xxl", "auto_find_batch_size": True, "learning_rate": 1e-3, "num_train_epochs": 5,
         "logging_dir": "lora-flan-t5-xxl/logs", "logging_strategy": "steps", "logging_steps": 500, "save_strategy": "no",
         "report_to": "tensorboard"},
        {8, 21, 32, 33, 59}, {13, 26, 28, 45, 48, 50, 57, 58}, batch=8, steps=9_210, kind="Seq2SeqTrainingArguments",
        refused={"logging_dir"}, in_command=("--task seq2seq", "--epochs 5", "--learning-rate 0.001", "--write-to tensorboard"),
    ),
    "starcoder": Configuration(  # a stream of code with LoRA
        "huggingface/cookbook@ed2c6467015cee5bd962606a5caa0ece10483982:notebooks/en/fine_tuning_code_llm_on_single_gpu.ipynb",
        "GPTBigCodeForCausalLM", None,
        {"output_dir": "Your_HF_username/peft-starcoder-lora-a100", "dataloader_drop_last": True, "evaluation_strategy": "steps",
         "save_strategy": "steps", "max_steps": 2_000, "eval_steps": 100, "save_steps": 100, "logging_steps": 25,
         "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "learning_rate": 5e-4, "lr_scheduler_type": "cosine",
         "warmup_steps": 30, "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "fp16": False, "bf16": True,
         "weight_decay": 0.01, "push_to_hub": True, "include_tokens_per_second": True},
        {20, 23, 40, 45, 47, 50}, {7, 8, 21, 24, 26, 28, 32, 48, 57, 58}, batch=16, steps=2_000, warmup=30,
        refused={"evaluation_strategy", "include_tokens_per_second"},
        in_command=("--task clm", "--max-steps 2000", "--warmup-steps 30", "--schedule cosine", "--precision bf16",
                    "--gradient-checkpointing"),
    ),
}  # fmt: skip


def as_script(configuration: Configuration) -> str:
    """A script that calls the class with these arguments, as the tutorial does."""
    package = "trl" if configuration.kind == "SFTConfig" else "transformers"
    arguments = "".join(f"    {name}={value!r},\n" for name, value in configuration.arguments.items())
    return f"from {package} import {configuration.kind}\n\ntraining_args = {configuration.kind}(\n{arguments})\n"
