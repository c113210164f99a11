"""Why the installed TrainingArguments would not take these arguments: names that are gone, and contradictions."""

from __future__ import annotations

from importlib.metadata import version

from bench.xray.arguments import Arguments


def refusals(a: Arguments) -> list[str]:
    """What the class raises (TypeError, ValueError), in words; [] if nothing is known to be in the way."""
    found = []
    for name, today in a.old.items():
        now = (
            f"it is called {today} today" + (" and takes a share below 1" if name == "warmup_ratio" else "")
            if today
            else "leave it out"
        )
        found.append(f"{name} is no argument of transformers {version('transformers')}: {now}; read so here")
    strategy, saving = a.text("eval_strategy"), a.text("save_strategy")
    if a.truth("load_best_model_at_end") and saving != "best" and None not in (strategy, saving):
        if strategy != saving:
            found.append(
                "load_best_model_at_end needs evaluations and checkpoints together: "
                f"eval_strategy={strategy}, save_strategy={saving}"
            )
        elif strategy == "steps":
            every, kept = a.number("eval_steps") or a.number("logging_steps"), a.number("save_steps")
            if every and kept and every >= 1 and kept >= 1 and kept % every:
                found.append(f"load_best_model_at_end needs save_steps={kept:g} to be a multiple of eval_steps={every:g}")
    if a.truth("fp16") and a.truth("bf16"):
        found.append("fp16 and bf16 are both True: one of them")
    if a.truth("fp16_full_eval") and a.truth("bf16_full_eval"):
        found.append("fp16_full_eval and bf16_full_eval are both True: one of them")
    if a.text("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy") and strategy == "no":
        found.append(f"lr_scheduler_type={a.text('lr_scheduler_type')} follows an evaluation, and eval_strategy is no")
    return found


def deprecated(a: Arguments) -> list[str]:
    """Old names that still work."""
    pairs = (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    )
    known = a.defaults or {}
    return [
        f"{old} is called {new} today, and goes with transformers 6" for old, new in pairs if old in a.values and new in known
    ]
