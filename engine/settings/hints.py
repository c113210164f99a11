"""What became of each field of ``transformers.TrainingArguments``: the table of docs/from-trainer.md, and hints for flags.

This is the source of both: a test holds the page to it, and it to the fields of the installed version. Written as the page
has it, in Markdown. "not needed" says that the reason for the field is gone, "not yet" that the feature is missing.
"""

from __future__ import annotations

import re

from engine.installed import program

ROWS: tuple[tuple[str, str], ...] = (  # fields, with Trainer's default where ours differs; what there is here
    (
        "`output_dir`",
        "`--output-dir`; without it `runs/TASK`",
    ),
    (
        "`per_device_train_batch_size` (8)",
        "`--batch-size` (16), over all devices: 8 on each of 4 GPUs is `--batch-size 32`",
    ),
    (
        "`num_train_epochs`",
        "`--epochs`, whole ones only",
    ),
    (
        "`max_steps` (-1)",
        "`--max-steps` (None)",
    ),
    (
        "`learning_rate` (5e-5)",
        "`--learning-rate` (2e-5)",
    ),
    (
        "`lr_scheduler_type`",
        "`--schedule`, under the same names. Our constant has a warm-up: it is Trainer's `constant_with_warmup`. "
        "Those that follow a metric (`reduce_lr_on_plateau`, `greedy`) are refused: here the rate is a function of "
        "the step alone",
    ),
    (
        "`lr_scheduler_kwargs`",
        "`--schedule-options num_cycles=3,power=2`; a minimum (`min_lr`, `lr_end`, `min_lr_ratio`) is "
        "`--min-learning-rate`, for every schedule that goes down",
    ),
    (
        "`warmup_steps`",
        "`--warmup-steps`; below 1, `--warmup-ratio`, a share of all steps, rounded up as Trainer does",
    ),
    (
        "`optim`, `optim_args`",
        "`--optimizer` adamw (fused, Trainer's default), sgd (with `--momentum`), adafactor or muon, of torch.optim. "
        "Trainer's `adafactor` is transformers' own, another algorithm; it has no Muon. See below. More entries: the "
        "table in `engine/optimizer.py`",
    ),
    (
        "`optim_target_modules`",
        "not yet",
    ),
    (
        "`weight_decay` (0.0)",
        "`--weight-decay` (0.01)",
    ),
    (
        "`adam_beta1`, `adam_beta2`, `adam_epsilon`",
        "`--adam-beta1`, `--adam-beta2`, `--adam-eps`",
    ),
    (
        "`gradient_accumulation_steps`",
        "`--accumulation-steps`",
    ),
    (
        "`average_tokens_across_devices`",
        "not needed: the divisor is always the items of the whole step",
    ),
    (
        "`max_grad_norm`",
        "`--max-grad-norm`; inf turns clipping off, where Trainer takes 0",
    ),
    (
        "`label_smoothing_factor`",
        "`--label-smoothing`, of the tasks that have it",
    ),
    (
        "`bf16` (False), `fp16` (False)",
        "`--precision` (auto): bf16 (or fp16) on CUDA, bf16 on CPUs that have it, else fp32",
    ),
    (
        "`bf16_full_eval`, `fp16_full_eval`",
        "not needed: evaluation runs under the autocast of training, the weights stay float32",
    ),
    (
        "`tf32`",
        "not needed: on with `--precision fp32` on CUDA devices that have it; the first line of a run says so",
    ),
    (
        "`activation_checkpointing`, `activation_checkpointing_kwargs`, `gradient_checkpointing`, "
        "`gradient_checkpointing_kwargs`",
        "`--gradient-checkpointing`, always with `use_reentrant=False`",
    ),
    (
        "`torch_compile`, `torch_compile_backend`, `torch_compile_mode`",
        "`--compile`, one dynamic graph; with `--cuda-graph on` what the mode reduce-overhead does; other backends: not yet",
    ),
    (
        "`use_liger_kernel`, `liger_kernel_config`",
        "not yet",
    ),
    (
        "`use_cache`",
        "not needed: the model's config is left as it is, Trainer writes False into it",
    ),
    (
        "`neftune_noise_alpha`",
        "not yet",
    ),
    (
        "`torch_empty_cache_steps`",
        "not yet",
    ),
    (
        "`auto_find_batch_size`",
        "not yet",
    ),
    (
        "`logging_strategy`, `logging_steps` (500)",
        "`--log-steps` (10); besides, a line at the end of each epoch",
    ),
    (
        "`logging_first_step`",
        "not yet",
    ),
    (
        "`logging_nan_inf_filter` (True)",
        "not needed: a run that is not finite stops",
    ),
    (
        "`include_num_input_tokens_seen` (no)",
        "not needed: `num_tokens`, without padding, stands in every line of `metrics.jsonl`",
    ),
    (
        "`log_level`",
        "not needed: what is decided for you is one line on stderr",
    ),
    (
        "`disable_tqdm`",
        "not needed: the bar shows in a terminal only, elsewhere log lines take its place",
    ),
    (
        "`report_to`, `run_name`, `project`",
        "`--write-to`: tensorboard, wandb, trackio, a writer of your own as `FILE.py:CLASS`, or several; `metrics.jsonl` in "
        "the output directory is always the whole log. The run has the directory's name, in the project plainloop",
    ),
    (
        "`trackio_space_id`, `trackio_bucket_id`, `trackio_static_space_id`",
        "not yet: trackio's own variables (`TRACKIO_SPACE_ID`) work",
    ),
    (
        "`eval_strategy` (no), `eval_steps` (None)",
        "`--eval-steps` (0): at the end of each epoch; without evaluation data there is no evaluation",
    ),
    (
        "`eval_delay`, `eval_on_start`",
        "not yet",
    ),
    (
        "`per_device_eval_batch_size` (8)",
        "`--eval-batch-size` (32)",
    ),
    (
        "`prediction_loss_only`",
        "not needed: metrics keep sums, see the next row",
    ),
    (
        "`eval_accumulation_steps`, `eval_do_concat_batches`, `eval_use_gather_object`, `batch_eval_metrics`, "
        "`include_for_metrics`",
        "not needed: the task's metrics see model, outputs and batch one batch at a time; no logits are kept, Spearman's "
        "correlation alone keeps a number per example",
    ),
    (
        "`save_strategy` (steps), `save_steps` (500)",
        "`--save-steps` (0): at the end of each epoch; besides, at each new best model and at the last step",
    ),
    (
        "`save_total_limit` (None)",
        "`--keep-checkpoints` (2): the newest ones, at least two, with the best one beside them; `best`: the newest "
        "one and the best one only",
    ),
    (
        "`save_only_model`",
        "not yet: a checkpoint holds all that resuming needs; the finished model is saved apart from it",
    ),
    (
        "`enable_jit_checkpoint`",
        "not yet",
    ),
    (
        "`push_to_hub`, `hub_model_id`, `hub_private_repo`",
        "`--push-to-hub NAME`: private, when the run is finished, one commit; for a public repository, `python run.py push`",
    ),
    (
        "`hub_token`",
        "not needed: `hf auth login` or `HF_TOKEN`; a token on a command line stands in the shell's history",
    ),
    (
        "`hub_strategy`, `hub_always_push`, `hub_revision`",
        "not yet: checkpoints stay here",
    ),
    (
        "`load_best_model_at_end` (False)",
        "not needed: always, when there is evaluation data",
    ),
    (
        "`metric_for_best_model`, `greater_is_better`",
        "`--best-metric`, without `eval_`; else the task's choice. The task knows which way is better",
    ),
    (
        "`resume_from_checkpoint`",
        "`--resume`: the newest whole checkpoint of the output directory; other settings or data are refused",
    ),
    (
        "`ignore_data_skip`",
        "not needed: the order is planned, so resuming reads no row that it skips",
    ),
    (
        "`restore_callback_states_from_checkpoint`",
        "not needed: best value, patience and the open log window are in the checkpoint",
    ),
    (
        "`full_determinism`",
        "`--deterministic`, which also sets `CUBLAS_WORKSPACE_CONFIG` unless it is set",
    ),
    (
        "`seed`",
        "`--seed`",
    ),
    (
        "`data_seed`",
        "not needed: the order follows `--seed`. Our `--data-seed` is another thing: it picks subsets and held-out rows",
    ),
    (
        "`use_cpu`",
        "`--device cpu`",
    ),
    (
        "`accelerator_config`",
        "not needed: accelerate is not used; the order is Trainer's, with its `use_seedable_sampler`",
    ),
    (
        "`dataloader_num_workers`",
        "`--workers`",
    ),
    (
        "`dataloader_drop_last`",
        "not needed: a short batch counts by its items",
    ),
    (
        "`dataloader_pin_memory`",
        "not needed: pinned when the device is CUDA",
    ),
    (
        "`dataloader_persistent_workers` (False)",
        "not needed: one loader serves the whole run, its workers stay",
    ),
    (
        "`dataloader_prefetch_factor`, `dataloader_multiprocessing_context`, `dataloader_in_order`",
        "not needed: torch's defaults, as in Trainer",
    ),
    (
        "`remove_unused_columns`",
        "not needed: the task takes the columns it names: `--text-column`, `--text-pair-column`, `--label-column`",
    ),
    (
        "`label_names`",
        "not needed: the task knows its targets. Our `--label-names` is another thing: the names of the classes",
    ),
    (
        "`train_sampling_strategy` (random)",
        "`--batching` (auto): random order, packed end to end without padding where the model allows that, else each batch "
        "padded to its longest row. group_by_length is `--batching bucketed`; sequential and batch_rebalance: not yet",
    ),
    (
        "`length_column_name`",
        "not needed: lengths are known from tokenising",
    ),
    (
        "`ddp_find_unused_parameters`, `ddp_bucket_cap_mb`, `ddp_broadcast_buffers`, `ddp_static_graph`, `ddp_backend`, "
        "`ddp_timeout`",
        "`--find-unused-parameters`; `--rank-timeout` (300); NCCL on GPUs and gloo on CPUs, buffers are not broadcast; the "
        "others: not yet. Without torchrun one device is used; Trainer takes all visible GPUs without being asked "
        "(`nn.DataParallel`). See [scaling.md](scaling.md)",
    ),
    (
        "`fsdp`, `fsdp_config`, `deepspeed`, `parallelism_config`",
        "`--shard`: FSDP2 over all ranks; hybrid sharding, offloading and the others: not yet",
    ),
    (
        "`local_rank`, `log_on_each_node`, `log_level_replica`, `save_on_each_node`",
        "not needed: torchrun's environment says the rank; rank 0 alone logs and saves",
    ),
    (
        "`debug`",
        "not yet. Our `--debug` is another thing: it shows tracebacks of errors that have a one-line form",
    ),
    (
        "`skip_memory_metrics` (True)",
        "not needed: peak memory stands in every log line; memory after each phase: `--profile`",
    ),
    (
        "`do_train`, `do_eval`, `do_predict`",
        "not needed: `python run.py`, `python run.py evaluate` and `python run.py predict`",
    ),
)


def names_of(cell: str) -> list[str]:
    """The fields that a cell of the first column names."""
    return re.findall(r"`([a-z_0-9]+)`", cell)


def hint(flag: str) -> str | None:
    """What to do in place of a flag that is called as Trainer's field is; None if none is called so."""
    name = flag.lstrip("-").replace("-", "_")
    for cell, here in ROWS:
        if name in names_of(cell):
            plain = re.sub(r"\[([^]]*)\]\(([^)]*)\)", r"docs/\2", here)
            return plain.replace("`", "").replace("python run.py", program())
    return None
