# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 5: measuring
#
# Figures that are wrong without an error, and where the time of a step goes. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

# %%
# Where Plainloop can be imported, this cell installs nothing. Elsewhere, on Colab say, it does: from
# a wheel beside this notebook (upload one; `pip wheel --no-deps -w dist .` makes it), from the
# checkout around it, or from ADDRESS.
import importlib.util
import subprocess
import sys
from pathlib import Path

ADDRESS = ""  # of the repository, as pip takes it: git+https://...
if importlib.util.find_spec("plainloop") is None:
    wheels, around = sorted(Path().glob("plainloop-*.whl")), sorted(Path("..").glob("hatch_build.py"))
    here = wheels or [file.parent for file in around]
    place = here[-1].resolve().as_uri() if here else ADDRESS
    assert place, "upload a wheel of Plainloop, or fill in ADDRESS"
    wanted = f"plainloop[offline,bench] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from IPython.display import Image

LESSONS = Path("runs/lessons")  # where the pictures go

# %% [markdown]
# **Predict:** a batch is not finite in the middle of an evaluation. What is reported?

# %%
# !{plainloop} lesson eval-nan

# %%
Image(LESSONS / "eval-nan.png", width=700)

# %% [markdown]
# The figure with and without that batch. Who would notice?

# %% [markdown]
# **Predict:** a classifier is 90 % sure of its answers, and has seen its rows eight times. How often is it right?

# %%
# !{plainloop} lesson calibration

# %%
Image(LESSONS / "calibration.png", width=700)

# %% [markdown]
# How often it is right over how sure it is. Why do the answers stay the same?

# %% [markdown]
# **Predict:** of 8 seeds the best one has 62 % on 100 rows. What will it have on others?

# %%
# !{plainloop} lesson best-of-n

# %%
Image(LESSONS / "best-of-n.png", width=700)

# %% [markdown]
# What is reported, and what is true, over the number of seeds. Where did you last report the best of several?

# %% [markdown]
# **A step of your own, profiled.** The cell writes a training loop as one writes it at home, and one with Trainer. Change it to what you would write, then run the
# two commands: a table for each, and a report of where the time goes.

# %%
LOOP = """import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

small = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
ids, labels = torch.randint(5, 100, (96, 16)), torch.randint(0, 2, (96,))


def by_hand():
    model = BertForSequenceClassification(small)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    batches = iter(DataLoader(TensorDataset(ids, labels), batch_size=8, shuffle=True))

    def step():
        some_ids, some_labels = next(batches)
        loss = F.cross_entropy(model(input_ids=some_ids).logits, some_labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_trainer():
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels)]
    arguments = TrainingArguments("runs/trainer", use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True)
    return Trainer(BertForSequenceClassification(small), arguments, train_dataset=rows).train
"""
Path("my_loop.py").write_text(LOOP, encoding="utf-8")
bench = plainloop.replace("-m plainloop", "-m bench")

# %%
# !{bench} step my_loop.py:by_hand

# %%
# !{bench} step my_loop.py:with_trainer --beside runs/step-by_hand

# %% [markdown]
# `forward` and `backward` should be alike: it is one model. What stands in `other`, and what does the larger one of the two do there?
