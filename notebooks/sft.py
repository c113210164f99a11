# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model that answers
#
# Supervised fine-tuning: conversations in which only the *answers* count. The question is read, but nothing is learned from predicting it. Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so.
# Offline, these are synthetic questions about words, and a small GPT-2 that starts from random weights.

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
    wanted = f"plainloop[offline] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from plainloop import Source, SourceConfig, TrainConfig, find, fit, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %%
SFT = find("sft")
task = SFT(SFT.Options(), Source(SourceConfig(max_train_examples=3000, max_eval_examples=200)))
result = fit(task, TrainConfig(task="sft", output_dir="runs/sft", batch_size=8, epochs=2, learning_rate=1e-3, log_steps=80))

# %% [markdown]
# **What to look at.** `accuracy` is the share of the tokens of the answers that are the most probable ones, given the tokens before. The loss is a mean over
# these tokens alone; with the questions in it, it would look lower and say less.

# %%
result

# %% [markdown]
# Ask it. `--chat` puts the question into the model's own template, as it was in training. After so little of it, many answers are wrong, and wrong
# in an instructive way: first the model learns what kind of answer a question wants, a word or a number, and only then which.

# %%
# !{plainloop} generate --model runs/sft --chat "Which word comes last: red, moon, cat?" "How many words are these: red, moon?"

# %% [markdown]
# Which tokens count? The beginning of the first conversation: each token, and what the model is to say next where that is a part of the loss.

# %%
row = task.examples()["train"][0]
for token, target in list(zip(row["input_ids"], row["labels"], strict=True))[:40]:
    print(repr(task.tokenizer.decode([int(token)])), "" if target == -100 else f"-> {task.tokenizer.decode([int(target)])!r}")
