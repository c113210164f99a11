# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 3: batches and padding
#
# What is computed for nothing, and when a mean is not the mean. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

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
# **Predict:** reviews of 100 tokens on average, padded to 512. Which share of the computed tokens is padding?

# %%
# !{plainloop} lesson padding

# %%
Image(LESSONS / "padding.png", width=700)

# %% [markdown]
# Computed and real tokens. Now the same for a real data set and all ways to batch, without training; look at the lines `lengths` and `padding`:

# %%
# !{plainloop} --task imdb --max-train-examples 500 --max-eval-examples 100 --explain

# %% [markdown]
# **Predict:** does `eval_loss` depend on the evaluation's batch size? For classes? For tokens?

# %%
# !{plainloop} lesson eval-batch

# %%
Image(LESSONS / "eval-batch.png", width=700)

# %% [markdown]
# One model, one data set, several losses. Which of them would you report?

# %% [markdown]
# **Predict:** 100 rows in batches of 32. What does the mean of the batches' means get wrong?

# %%
# !{plainloop} lesson last-batch

# %%
Image(LESSONS / "last-batch.png", width=700)

# %% [markdown]
# The error over the size of the last batch. For which sizes is there none?

# %% [markdown]
# **Predict:** rows are put end to end to fill a block, and nobody tells the model where one ends. Is the gradient another one?

# %%
# !{plainloop} lesson packing

# %%
Image(LESSONS / "packing.png", width=700)

# %% [markdown]
# How far the gradient is from that of the rows one by one. For which kind of model is it further off, and why?

# %% [markdown]
# **Exercise.** The loss over real tokens: padding must not count, and neither must the place of a row in a batch.

# %%
# !{plainloop} lesson num-items --exercise

# %%
print(Path("num_items_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `num_items_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson num-items --check num_items_exercise.py
